"""The search on GPUs. dispatch.py imports it when a search on a GPU first asks for it.

    bank_search      a bank of codes: block of queries by block, run of pages by run
    vector_search    prototypes as given: chunk by chunk, coded in passing or read in TF32
    stages           what both go through, in rounds; here kernels are launched
    query_block      what a stage hands to the next: queries, prototypes, entries, the best so far
    plan             how large blocks and chunks are, from shapes and chip
    rounds           how many tiles a round has
    device/          the kernels
    selfcheck/       whether they are right on the card at hand: nobody else calls a search

A search is

    prepare   queries, and prototypes as given, become what the screen multiplies; masks become bits
    scan      some tiles of the prototypes: what reaches the threshold is appended
    settle    what was appended, into the k best, which raise the threshold; and so on

Scans are cut into tiles:

    tiles            the tiles that each chip may run
    chips            the chips that the kernels run on
    tuned_tiles      the file that keeps the fastest, of those that selfcheck/tile_sweep tries

Triton is imported in stages, vector_search and device/ alone.
"""
