"""What trained methods reach."""
