"""Code that runs on the GPU, in Triton's language.

A search goes through these files:

prototypes   prototypes as given become codes
prepare      queries become what a screen multiplies
int8_scan    the int8 screen: groups of codes that reach the threshold of a query
tf32_scan    the TF32 screen, for few queries: groups of prototypes as given that do
settle       from those to the matches so far: members, fp64, the next threshold

They share four:

groups       which prototypes share a bound, where those lie, which may match, and the entries
             that name them
fp64         vectors in fp64, and the score that is returned
flags        what programs report beside the result
keys         a score and an index in one int64, the twin of contract/order.py

One letter is one axis, from stride to mask: q queries, p prototypes, c channels, g groups, k ranks.
"""
