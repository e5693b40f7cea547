"""The memory of a NumPy array as a tensor."""

import numpy as np
import torch
from torch import Tensor


class _Writable:
    """The same memory, without the note that it may not be written to.

    torch warns of each array that has it, and silencing warnings is nothing that threads can do
    beside each other. Nobody here writes to what a caller gave.
    """

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = interface | {"data": (interface["data"][0], False)}
        self.array = array  # lives as long as the tensor does


def tensor_of(array: np.ndarray) -> Tensor:
    """A tensor that shares the memory of ``array``, any shape and dtype that torch has.

    Copied is what torch cannot look at: another byte order, negative strides, elements that do not
    lie at multiples of their size. bfloat16 is that of ml_dtypes. A read-only array gives no
    warning; its tensor must not be written to.

    Raises:
        TypeError: a dtype that torch does not have.
    """
    if array.dtype.name == "bfloat16":
        return tensor_of(array.view(np.uint16)).view(torch.bfloat16)
    if not _is_torchs(array):
        array = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Writable(array)))


def _is_torchs(array: np.ndarray) -> bool:
    whole = all(s >= 0 and s % array.itemsize == 0 for s in array.strides)
    return whole and array.dtype.isnative and array.flags.aligned
