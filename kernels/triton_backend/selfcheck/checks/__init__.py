"""What a variant has to pass.

    variants       what is compiled apart is checked apart
    all_checks     these, one after the other
    preparation    vectors as prepared, and thresholds, beside proofs/fp16.py
    float_bounds   the bounds of the fp16 and TF32 screens beside proofs/fp16.py, and the sums of
                   tensor cores beside fp64
    int8_bounds    the bounds of the int8 screen beside proofs/int8.py
    rescoring      what is made of bounds, beside the contract
    answers        small searches beside the contract
    samples        numbers and plans that these share, and how a difference is told

Numbers are chosen so that each right result is known to the bit, whatever is fused or reordered:
sums of small integers, products with powers of two. Where the hardware may round as it likes, a
result is held to the error that the proof allows, and no more.
"""
