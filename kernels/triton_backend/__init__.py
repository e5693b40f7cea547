"""The search on GPUs. dispatch.py imports it when a search on a GPU first asks for it.

    plan             which screen, how many queries and prototypes at a time: from shapes and chip
    float_search     prototypes as given: chunk of prototypes by chunk, block of queries by block
    int8_search      a bank of codes: block of queries by block, run of pages by run
    launches         the stages that both share
    query_block      what a stage hands to the next: queries, groups, originals, the running top-k
    device/          the kernels
    selfcheck/       whether they are right on the card at hand: nobody else calls a search

Either search is

    prepare   vectors become what the screen multiplies; masks become bits
    scan      one upper bound for each group of prototypes
    select    the best groups, by their bounds
    rescore   their members, in fp64, into the running top-k
    repair    queries whose top-k the bounds do not prove yet

and its scans are cut into tiles:

    tiles            the tiles that each chip may run
    chips            the chips that the kernels run on
    tile_sweep       every tile of a chip, checked and timed
    tuned_tiles      the file that keeps the fastest

Triton is imported here and in device/ alone.
"""
