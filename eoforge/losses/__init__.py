"""Training objectives that more than one method needs."""
