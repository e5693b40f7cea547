"""What only CPUs do: searches in one pass over scores that fit in memory, by few and large calls.

plan.py decides whether, and cuts a search into tasks, some queries and a part of the prototypes
each. shares.py gives them to workers, threads that share no operation, and merges what they find.
one_pass.py takes a task:

whole       few products: all scores in fp64                         rescoring.py
            -or-
screen      one product of fp32, or bf16, for a block and a span     shortlist.py
shortlist   the k, and a few more, of each query that look best      shortlist.py
rescore     those in fp64: as many of each query, so rectangular     rescoring.py

certify     scores are sure, and nothing left out could enter        certificate.py
again       queries that fail: with the rest of the shortlist        one_pass.py
repair      those that fail still: by float_search.py, for any       one_pass.py

queries.py holds what products take of queries, storage/operands.py what they take of prototypes.
Small arrays go through NumPy, on views of the same memory: a call of it costs less than torch's.
What is not finite, or out of range, is refused here (None), and searched in general.
"""
