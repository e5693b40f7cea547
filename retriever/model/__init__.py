"""The encoder, the head, their weights, and what the features must be."""
