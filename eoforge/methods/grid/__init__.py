"""GRID: generative reasoning for label-noise-robust learning (Sumbul and Demir, IEEE TIP 2023)."""
