"""Photographs, from a folder or from the scikit-image wheel, and galleries of their parts."""

from .photographs import Photograph, Photographs, photographs_in
from .shipped import shipped_photographs
from .views import Gallery, View, cut_views, fit

__all__ = [
    "Gallery",
    "Photograph",
    "Photographs",
    "View",
    "cut_views",
    "fit",
    "photographs_in",
    "shipped_photographs",
]
