"""What goes into a search and what comes out: the meaning of a result, and no way to find it."""
