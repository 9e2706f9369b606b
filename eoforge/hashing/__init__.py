"""Binary codes: their lengths, their packing, and the head that learns them."""
