"""The silo-facing half of the federation service."""
