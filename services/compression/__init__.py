"""Compression service: compression and decompression of rasters, hash codes and headers of streams."""
