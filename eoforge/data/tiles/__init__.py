"""Tiles of Sentinel-2 products as a source of patches: the rules by which reBEN was built, for any tile."""
