"""Geolocation of patches: MGRS tiles, UTM footprints, geographic bounds."""
