"""Prototypes from a DataLoader: every sample encoded once, and every row known."""
