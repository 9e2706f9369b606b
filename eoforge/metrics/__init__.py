"""Measures of retrieval, of multi-label classification and of binary codes."""
