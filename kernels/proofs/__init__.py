"""Why low precision may exclude: fp32.py (TF32 and bf16 operands, too), bf16.py, fp16.py, int8.py.

Each proves how far a screened value can lie from the score it stands for, and turns that into
numbers that a backend adds to a value, or compares one with.
"""
