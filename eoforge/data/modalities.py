"""Numbers of the sensors in the typed APIs: names inside the library, enumerators on the wire."""

from __future__ import annotations

from eoforge.api.compression.v1 import compression_pb2
from eoforge.api.retrieval.v1 import retrieval_pb2

RETRIEVAL_MODALITIES = {"s1": retrieval_pb2.MODALITY_S1, "s2": retrieval_pb2.MODALITY_S2}
COMPRESSION_MODALITIES = {"s1": compression_pb2.MODALITY_S1, "s2": compression_pb2.MODALITY_S2}
MODALITY_NAMES: dict[int, str] = {number: name for name, number in RETRIEVAL_MODALITIES.items()}
"""Name by number; both APIs use the same numbers."""
