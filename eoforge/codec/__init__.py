"""Codec: portable streams of Sentinel-1 and Sentinel-2 rasters with a hash code."""
