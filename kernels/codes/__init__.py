"""Vectors as int8: layout.py (pages, tiles, groups), frame.py (what is coded), pages.py, rotation.py."""
