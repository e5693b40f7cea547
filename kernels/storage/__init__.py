"""What a bank keeps, state by state (prepared.py), and its file. No room here knows who searches it."""
