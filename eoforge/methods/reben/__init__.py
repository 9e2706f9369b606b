"""Baselines of reBEN: multi-label scenes and pixel maps by timm networks; see README.md."""
