"""What a bank keeps, state by state (prepared.py), and its file; not who searches it."""
