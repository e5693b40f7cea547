"""Threads that are fit to compute, turns, and states that change while others read them."""
