"""eoforge: search, compress and learn from satellite archives without moving the pixels."""
