"""Each adapter beside the library it stands in for, and each call of our own beside its peers."""
