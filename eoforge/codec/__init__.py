"""The codec: portable streams of Sentinel-1 and Sentinel-2 rasters that carry their own hash code."""
