"""Images, encoders, galleries and the retriever; knows nothing of Triton."""
