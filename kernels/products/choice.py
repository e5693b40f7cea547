"""Which product of int8 codes serves on a device: the only place that chooses."""

from . import integers, packed

INT_MM, FBGEMM = "int_mm", "fbgemm"


def product_of_codes(device_type: str) -> str:
    """``INT_MM`` or ``FBGEMM``, whichever is exact here, a fast one first; "" for neither.

    Without VNNI, ``torch._int_mm`` is either wrong or some 50 times slower than fbgemm.
    """
    if device_type == "cpu" and not integers.is_fast("cpu") and packed.is_exact():
        return FBGEMM
    return INT_MM if integers.is_exact(device_type) else ""


def is_fast(device_type: str) -> bool:
    """Whether the screen of codes is worth having on this CPU."""
    return not why_not_fast(device_type)


def codes_in_passing(device_type: str) -> bool:
    """Whether it pays to code raw prototypes for one search."""
    return integers.is_fast(device_type)


def why_not_fast(device_type: str) -> str:
    """The reason, or nothing."""
    reason = integers.why_not_fast(device_type)
    if not reason or device_type != "cpu" or packed.is_fast():
        return "" if device_type == "cpu" else reason
    other = "no faster than fp32" if packed.is_exact() else "missing, or not exact"
    return f"{reason}, and fbgemm is {other}"
