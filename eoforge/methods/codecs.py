"""Codecs of run bundles, for the command line, the pipelines and the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eoforge.bundle import load_bundle
from eoforge.errors import BundleError

if TYPE_CHECKING:
    from eoforge.codec.coder import Coder
    from eoforge.index.encoder import Encoder


def open_coder(bundle_uris: Sequence[str], device: str | None = None) -> Coder:
    """A coder with the codecs of bundles, the first as the default; without bundles it codes with bounded errors only.

    Raises:
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged or has no codec.
    """
    from eoforge.codec.coder import Coder
    from eoforge.methods.rs_jcif.method import load_codec

    return Coder([load_codec(load_bundle(uri), device) for uri in bundle_uris])


def open_archiver(bundle_uri: str, device: str | None = None) -> tuple[Coder, Encoder]:
    """Coder and encoder of a bundle: the streams of a table, and the codes that index them.

    Raises:
        NotFound: The bundle does not exist.
        BundleError: It is damaged, or its codec has no trained hash module.
    """
    from eoforge.methods import METHODS, get_method

    bundle = load_bundle(bundle_uri)
    method = str(bundle.config["method"])
    if method not in METHODS:
        raise BundleError(
            f"{bundle_uri} is a bundle of {method!r}, a codec without trained codes; a table of streams is searched by "
            "code. Name the bundle of the whole run (`eoforge train rs_jcif` continues from this one), or compress "
            "files, which need no codes"
        )
    encoder = get_method(method).load(bundle, device)
    return coder_of(encoder), encoder


def coder_of(encoder: Encoder) -> Coder:
    """A coder with the codec of a loaded model, or without one if the model has none."""
    from eoforge.codec.coder import Coder
    from eoforge.codec.learned.model import Codec

    codec = getattr(encoder, "codec", None)
    return Coder([codec] if isinstance(codec, Codec) else [])
