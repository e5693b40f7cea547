"""What kernels report without being waited for: int32 numbers beside the result."""

from enum import IntEnum

import triton.language as tl

NEVER = tl.constexpr(2**31 - 1)
"""Where a query resumes that has not failed."""


class Flag(IntEnum):
    """Where a number lies among the flags of a search, all of which start at 0."""

    NONFINITE_QUERIES = 0
    """1 where some query is not finite."""
    NONFINITE_PROTOTYPES = 1
    """1 where some prototype that was read as given is not finite."""
    REPAIRED = 2
    """How many queries needed a wider search."""
