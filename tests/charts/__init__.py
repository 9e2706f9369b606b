"""The charts, checked without a cluster: by the real Helm engine, against the schemas of what they render."""
