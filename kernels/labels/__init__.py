"""Searches where labels say which pairs may match, or groups how many of them are listed."""
