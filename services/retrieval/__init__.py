"""The retrieval service: exact cross-sensor search over the codes of an archive."""
