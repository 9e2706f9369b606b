"""Binary codes: how bits are packed, and the head that learns them."""
