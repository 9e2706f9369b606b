"""Bands of a network's input, by the choice of sensors in its settings."""

from __future__ import annotations

_SENSORS: dict[str, tuple[str, ...]] = {"s1": ("s1",), "s2": ("s2",), "s1s2": ("s1", "s2")}


class SensorBands:
    """Base of settings with bands of both sensors, of which a network reads those of ``sensors``.

    Attributes:
        s1_bands: Radar bands in channel order.
        s2_bands: Optical bands in channel order.
    """

    s1_bands: tuple[str, ...]
    s2_bands: tuple[str, ...]

    @property
    def sensors(self) -> str:
        """Choice "s1", "s2", or "s1s2" for both; settings that leave a choice have a field in its place."""
        return "s1s2"

    @property
    def sensor_bands(self) -> dict[str, tuple[str, ...]]:
        """Bands per sensor of the input, in channel order; Sentinel-1 first."""
        bands = {"s1": self.s1_bands, "s2": self.s2_bands}
        return {sensor: bands[sensor] for sensor in _SENSORS[self.sensors]}

    @property
    def channels(self) -> int:
        """Number of bands of the input."""
        return sum(map(len, self.sensor_bands.values()))
