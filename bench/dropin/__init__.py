"""Each adapter beside the library it stands in for."""
