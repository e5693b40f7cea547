"""mmengine imports this module for any type whose name starts with "flashmatch."."""

from flashmatch.retriever import mmpretrain as mmpretrain
