"""The matrix products of torch: how exact they are here, and how fast.

No other room assumes anything about a machine.
"""
