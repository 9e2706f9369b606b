"""Ours, Flower and NVIDIA FLARE in one run; see ``__main__.py``."""
