"""The demonstration behind ``flashmatch demo``; nothing else in the retriever needs it."""
