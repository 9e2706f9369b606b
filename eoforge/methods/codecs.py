"""The codecs of run bundles, for whoever compresses: the command line, the pipelines, the services."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eoforge.bundle import load_bundle
from eoforge.errors import BundleError

if TYPE_CHECKING:
    from eoforge.codec.coder import Coder
    from eoforge.index.encoder import Encoder


def open_coder(bundle_uris: Sequence[str], device: str | None = None) -> Coder:
    """The codecs of some bundles, the first being the default; without any, bounded errors are left.

    Raises:
        NotFound: A bundle does not exist.
        BundleError: A bundle is damaged, or holds no codec.
    """
    from eoforge.codec.coder import Coder
    from eoforge.methods.rs_jcif.method import load_codec

    return Coder([load_codec(load_bundle(uri), device) for uri in bundle_uris])


def open_archiver(bundle_uri: str, device: str | None = None) -> tuple[Coder, Encoder]:
    """What makes the streams of a table, and the codes by which they are found.

    Raises:
        NotFound: The bundle does not exist.
        BundleError: It is damaged, or holds a codec whose codes were never trained.
    """
    from eoforge.methods import METHODS, get_method

    bundle = load_bundle(bundle_uri)
    method = str(bundle.config["method"])
    if method not in METHODS:
        raise BundleError(
            f"{bundle_uri} is a bundle of {method!r}: a codec before its codes were trained. A table of streams is "
            "searched by code: name the bundle of the whole run (`eoforge train rs_jcif` goes on from this one), or "
            "compress files, which need none"
        )
    encoder = get_method(method).load(bundle, device)
    return coder_of(encoder), encoder


def coder_of(encoder: Encoder) -> Coder:
    """The codec of a loaded model, if it has one: what makes and reads the streams of an archive that it indexes."""
    from eoforge.codec.coder import Coder
    from eoforge.codec.learned.model import Codec

    codec = getattr(encoder, "codec", None)
    return Coder([codec] if isinstance(codec, Codec) else [])
