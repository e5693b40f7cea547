"""The instruments: data, the right answer, clocks, memory, instructions, the ledger, its tables.

This room imports no other of bench.
"""
