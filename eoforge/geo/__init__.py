"""Where patches lie on the ground: MGRS tiles, UTM footprints, geographic bounds."""
