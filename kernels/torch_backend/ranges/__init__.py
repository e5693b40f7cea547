"""All that reaches a score, on any device: a search whose threshold is given.

range_search.py goes block by block of queries past the prototypes, by range_scan.py, which scans as
a search for the k best does but for what many matches want; in_range.py keeps what reaches the
threshold; pieces.py makes one result of it.
"""
