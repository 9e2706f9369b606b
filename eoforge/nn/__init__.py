"""Networks and training utilities that methods share."""
