"""The independent check of a result, which shares no code with the search (a test holds that)."""

from .check import verify
from .report import Disagreement, Verification

__all__ = ["Disagreement", "Verification", "verify"]
