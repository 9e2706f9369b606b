"""Networks that more than one method builds on."""
