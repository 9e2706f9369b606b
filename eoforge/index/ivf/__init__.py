"""Vector index of Lance (IVF with Hamming distance) over a table of codes, for archives larger than a machine."""
