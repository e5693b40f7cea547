"""The search on GPUs. dispatch.py imports it when a search on a GPU first asks for it.

    int8_search      a bank of codes: block of queries by block, run of pages by run, in rounds
    rounds           how large those are, from shapes and chip
    float_search     prototypes as given: chunk of prototypes by chunk, block of queries by block
    plan             how large those are
    launches         the stages of a float search
    query_block      what a stage hands to the next: queries, groups, originals, the running top-k
    device/          the kernels
    selfcheck/       whether they are right on the card at hand: nobody else calls a search

A search of codes is

    code      the queries
    scan      some tiles of the codes: what reaches the threshold is appended
    settle    what was appended, into the k best, which raise the threshold; and so on

and one of prototypes as given

    prepare   vectors become what the screen multiplies; masks become bits
    scan      one upper bound for each group of prototypes
    select    the best groups, by their bounds
    rescore   their members, in fp64, into the running top-k
    repair    queries whose top-k the bounds do not prove yet

Scans are cut into tiles:

    tiles            the tiles that each chip may run
    chips            the chips that the kernels run on
    tuned_tiles      the file that keeps the fastest, of those that selfcheck/tile_sweep tries

Triton is imported here and in device/ alone.
"""
