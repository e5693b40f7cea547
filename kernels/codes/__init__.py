"""Vectors as int8: layout.py (pages, tiles, groups), frame.py and rotation.py, pages.py."""
