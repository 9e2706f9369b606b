"""Binary codes of an archive: making them, keeping them, searching them."""
