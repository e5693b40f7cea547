"""The instruments: data, the right answer, clocks, memory, rooflines, the ledger and its tables.

This room imports no other of bench.
"""
