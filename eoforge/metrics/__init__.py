"""Measures of how well methods do."""
