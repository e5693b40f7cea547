"""Code that runs on the GPU, in Triton's language.

A search goes through three files:

prepare      queries and prototypes become what a screen multiplies; masks become bits
int8_scan    the int8 screen: groups of codes that reach the threshold of a query
settle       from those to the matches so far: members, fp64, the next threshold
  or
float_scan   the fp16 and TF32 screens: an upper bound for each query and group of prototypes
rescore      thresholds, rescoring in fp64 and repair: from bounds to the keys of the result

They share four:

groups       which prototypes share a bound, where those lie, and which of them may match
fp64         vectors in fp64, and the score that is returned
flags        what programs report beside the result
keys         a score and an index in one int64, the twin of contract/order.py

One letter is one axis, from stride to mask: q queries, p prototypes, c channels, g groups, k ranks.
"""
