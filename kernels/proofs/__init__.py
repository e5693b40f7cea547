"""Why low precision may exclude: fp32.py (TF32 and bf16, too), bf16, tf32, int8, int8_scan.

Each proves how far a screened value can lie from the score it stands for, and turns that into
numbers that a backend adds to a value, or compares one with.
"""
