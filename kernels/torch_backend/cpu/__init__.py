"""What only CPUs do: searches in one pass, by threads that take blocks of their own.

whole       few scores: all of them in fp64
            -or-
screen      one fp32 product                                     shortlist.py
shortlist   the k + a few best of each query by that
rescore     those in fp64, rectangular                           rescore.py

certify     sums certain, nothing left out that could enter      certificate.py
repair      queries that fail: float_search.py, which takes any  search.py

On a CPU, where small arrays go through NumPy, on views of the same memory: a call of it costs a
third of torch's.
"""
