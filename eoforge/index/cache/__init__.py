"""Local cache of an index: codes, filter columns and metadata in files that processes map into memory."""
