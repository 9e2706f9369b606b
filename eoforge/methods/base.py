"""Base classes of the methods: settings, and encoders from run bundles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eoforge.bundle import Bundle
from eoforge.config import build_config
from eoforge.errors import UsageError
from eoforge.index.encoder import Encoder
from eoforge.methods import encoding


class ConfiguredMethod:
    """Name and settings of a :class:`eoforge.methods.Method`."""

    name: str
    config_type: type[Any]

    def config(self, preset: str, overrides: Mapping[str, str], file: str | None = None) -> Any:
        return build_config(self.config_type, preset, overrides, file)

    def require_own(self, config: Any) -> None:
        """Check of the settings of a training.

        Raises:
            UsageError: They belong to another method.
        """
        if not isinstance(config, self.config_type):
            raise UsageError(f"{self.name} trains with its own Config; got {type(config).__name__}")


class HashMethod(ConfiguredMethod, ABC):
    """Method whose bundle holds one network that encodes prepared images.

    Its settings have ``sensor_bands``, ``size``, ``bits``, ``interpolation`` and ``seed``.
    """

    @abstractmethod
    def build(self, config: Any) -> Any:
        """Network with initial weights.

        It has ``features``, the length of its embeddings, and ``encode(image_BCSS, modality)``, which gives hash logits
        ``[B, K]`` and unit embeddings ``[B, D]``.
        """

    def load(self, bundle: Bundle, device: str | None = None) -> Encoder:
        return self._encoder(bundle, *self._trained(bundle), device)

    def untrained(self, bundle: Bundle, seed: int | None = None, device: str | None = None) -> Encoder:
        config = self._config_of(bundle)
        chosen = config if seed is None else replace(config, seed=seed)
        return self._encoder(bundle, self.build(chosen), config, device)

    def _trained(self, bundle: Bundle) -> tuple[Any, Any]:
        """Network with the weights of a bundle, and its settings."""
        config = self._config_of(bundle)
        network = self.build(config)
        encoding.load_weights(network, bundle)
        return network, config

    def _config_of(self, bundle: Bundle) -> Any:
        encoding.require_method(bundle, self.name)
        return encoding.settings_of(bundle, self.config_type, self.name)

    def _encoder(self, bundle: Bundle, network: Any, config: Any, device: str | None) -> Encoder:
        facts = facts_of(config, network)
        return encoding.hash_encoder(bundle, network, config.sensor_bands, config.size, facts, device)


def facts_of(config: Any, network: Any) -> dict[str, Any]:
    """Entries of ``config.json`` by which an encoder is checked."""
    return {"bits": config.bits, "embedding_dim": network.features, "interpolation": config.interpolation}
