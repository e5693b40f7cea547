"""The metrics: what a score is. Larger is more similar.

cosine   q.p / (max(|q|, COSINE_EPS) max(|p|, COSINE_EPS)), as torch.cosine_similarity
dot      q.p
l2       -|q - p|^2
"""

METRICS = ("cosine", "dot", "l2")
COSINE_EPS = 1e-8
