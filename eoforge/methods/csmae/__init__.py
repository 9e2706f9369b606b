"""CSMAE: cross-sensor masked autoencoders (Hackstein, Sumbul, Clasen, Demir, TGRS 2024), ending in hash codes."""
