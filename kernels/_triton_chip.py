"""Which chips the kernels run on: those that the compile matrix stands for."""

import torch

from ._triton_plan import HIP


def is_supported(device: torch.device) -> bool:
    """Whether it has TF32 (XF32) and int8 tensor cores that the kernels were compiled for."""
    if device.type != "cuda":
        return False
    if torch.version.hip:
        return "gfx942" in torch.cuda.get_device_properties(device).gcnArchName
    return arch(device) >= 80


def arch(device: torch.device) -> int:
    """As the plans name it; without a device, as interpreted, 90."""
    if torch.version.hip:
        return HIP
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return 10 * major + minor
