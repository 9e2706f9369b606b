"""The compression service: streams from rasters and back, codes and headers from streams."""
