"""The neighbouring libraries' own tests, run with ours in the place of what they test."""
