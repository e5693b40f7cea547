"""Calls that stand in for no library's, beside the best way to the same answer without ours."""
