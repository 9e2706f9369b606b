"""SS-CM-RSIR: self-supervised cross-modal retrieval (Sumbul, Müller, Demir, ICIP 2022), ending in hash codes."""
