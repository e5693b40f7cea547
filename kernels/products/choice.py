"""Which product of int8 codes serves on a device: the only place that chooses."""

from . import integers, packed

INT_MM, FBGEMM = "int_mm", "fbgemm"


def product_of_codes(device_type: str) -> str:
    """``INT_MM`` or ``FBGEMM``, whichever is exact here, a fast one first; "" for neither.

    Without VNNI, ``torch._int_mm`` is either wrong or some 50 times slower than fbgemm.
    """
    if device_type == "cpu" and not integers.is_fast("cpu") and packed.is_packed_exact():
        return FBGEMM
    return INT_MM if integers.is_exact(device_type) else ""


def are_codes_fast(device_type: str, channels: int) -> bool:
    """Whether the screen of codes is worth having on this CPU for vectors of so many channels."""
    return not why_codes_are_slow(device_type) and channels >= least_channels(device_type)


def least_channels(device_type: str) -> int:
    """From so many on, codes are faster than floats."""
    return packed.LEAST_CHANNELS if are_codes_packed(device_type) else 1


def are_codes_packed(device_type: str) -> bool:
    """Whether codes are multiplied by fbgemm there."""
    return device_type == "cpu" and product_of_codes("cpu") == FBGEMM


def codes_in_passing(device_type: str) -> bool:
    """Whether it pays to code raw prototypes for one search."""
    return integers.is_fast(device_type)


def why_codes_are_slow(device_type: str) -> str:
    """The reason, or nothing."""
    reason = integers.why_not_fast(device_type)
    if reason and are_codes_packed(device_type):
        return "" if packed.is_packed_fast() else f"{reason}, and fbgemm is no faster than fp32"
    return reason
