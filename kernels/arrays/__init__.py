"""Arrays of any library: in as tensors, without a copy where there can be one, and back in kind."""
