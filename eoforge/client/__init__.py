"""Clients of the services: ``from eoforge.client import RetrievalClient``.

Names are imported on first use, so that importing the package loads neither gRPC nor the messages of other services.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eoforge.client.base import RemoteError as RemoteError
    from eoforge.client.base import RemoteNotFound as RemoteNotFound
    from eoforge.client.base import RemoteRefused as RemoteRefused
    from eoforge.client.compression import Compressed as Compressed
    from eoforge.client.compression import CompressionClient as CompressionClient
    from eoforge.client.compression import Decompressed as Decompressed
    from eoforge.client.federation import FederationClient as FederationClient
    from eoforge.client.messages import AcrossAnswer as AcrossAnswer
    from eoforge.client.messages import Encoded as Encoded
    from eoforge.client.messages import Hit as Hit
    from eoforge.client.messages import IndexInfo as IndexInfo
    from eoforge.client.messages import OwnerAnswer as OwnerAnswer
    from eoforge.client.messages import Patch as Patch
    from eoforge.client.messages import PatchInfo as PatchInfo
    from eoforge.client.retrieval import RetrievalClient as RetrievalClient
    from eoforge.client.silo import SiloClient as SiloClient
    from eoforge.data.search_filter import SearchFilter as SearchFilter

_NAMES = {
    "eoforge.client.base": ("RemoteError", "RemoteNotFound", "RemoteRefused"),
    "eoforge.client.compression": ("Compressed", "CompressionClient", "Decompressed"),
    "eoforge.client.federation": ("FederationClient",),
    "eoforge.client.messages": ("AcrossAnswer", "Encoded", "Hit", "IndexInfo", "OwnerAnswer", "Patch", "PatchInfo"),
    "eoforge.client.retrieval": ("RetrievalClient",),
    "eoforge.client.silo": ("SiloClient",),
    "eoforge.data.search_filter": ("SearchFilter",),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
