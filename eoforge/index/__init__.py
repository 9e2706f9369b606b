"""Index of binary codes: its tables, their building, and the search."""
