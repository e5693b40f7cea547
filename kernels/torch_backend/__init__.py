"""The search on any device that torch has.

plan.py cuts a search into blocks. float_search.py takes vectors past a block of queries
(query_block.py) by float_scan.py, int8_search.py takes codes by int8_scan.py. float_screen.py says
what is multiplied and how exactly; candidates.py keeps what may still be among the best; rescore.py
evaluates that in fp64. On CPUs, cpu/ searches vectors in one pass wherever that can be proven, and
leaves the rest to these.
"""
