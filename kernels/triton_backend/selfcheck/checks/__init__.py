"""What a variant has to pass.

    variants       what is compiled apart is checked apart
    all_checks     these, one after the other
    preparation    queries as prepared, and prototypes as coded, beside proofs/
    tf32_entries   the bounds of the TF32 screen beside fp64, and what is appended by them
    int8_entries   what a scan of codes appends, beside proofs/int8_scan.py
    settling       what is made of entries, beside the contract
    answers        small searches beside the contract
    samples        numbers and plans that these share, and how a difference is told

Numbers are chosen so that each right result is known to the bit, whatever is fused or reordered:
sums of small integers, products with powers of two. Where the hardware may round as it likes, a
result is held to the error that the proof allows, and no more.
"""
