"""Tensors from files and into them, with nothing executed or believed that a file says."""
