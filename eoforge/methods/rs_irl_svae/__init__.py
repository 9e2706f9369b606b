"""RS-IRL-SVAE: label-noise-robust learning by a supervised variational autoencoder (Sumbul and Demir, IGARSS 2023)."""
