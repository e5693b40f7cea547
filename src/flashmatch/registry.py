"""mmengine imports this module for any type whose name starts with "flashmatch."."""

from .retriever import mmpretrain as mmpretrain
