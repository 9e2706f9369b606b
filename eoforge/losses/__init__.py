"""Training objectives that methods share."""
