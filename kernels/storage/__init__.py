"""What a bank keeps, state by state (prepared.py), and its file. Nothing here knows who searches."""
