"""Patches a second of the learned codec against JPEG2000 and JPEG-XL at equal PSNR; code from the stream against a full
decode; the share of entropy coding.

The codec starts from principal components and is not trained: time does not depend on what the weights are, and the
rates beside it are what that start is worth (trained rates are the method's business). Peers code each band by itself;
their setting is searched until the mean PSNR over the patches is ours. One thread for all.

    python -m benchmarks.codec.speed [--patches 24] [--rounds 2] [--preset tiny|paper] [--quality 4] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.codec.peers import PEERS
from benchmarks.codec.samples import batch_of, best_seconds, kinds, pairs_of, rasters
from eoforge.codec.container import LIMITS, unpack
from eoforge.codec.entropy import Decoder, Encoder
from eoforge.codec.learned import pieces
from eoforge.codec.learned.config import CodecConfig
from eoforge.codec.learned.model import Codec
from eoforge.codec.learned.rate import psnr
from eoforge.codec.learned.streams import stored_codes
from eoforge.codec.raster import Raster

BATCHES = (1, 32)


def mean_psnr(originals: list[Raster], decoded: list[Raster]) -> float:
    """Mean over patches, peak 10,000."""
    return float(np.mean([psnr(a, b) for a, b in zip(originals, decoded, strict=True)]))


def bpp(sizes: list[int], patches: list[Raster]) -> float:
    """Mean bits per base pixel."""
    return 8 * sum(sizes) / sum(r.shape[0] * r.shape[1] for r in patches)


def in_batches(way: Any, items: list[Any], size: int) -> list[Any]:
    """``way`` over slices of ``size``."""
    return [one for start in range(0, len(items), size) for one in way(items[start : start + size])]


def entropy_coding(codec: Codec, coded: list[bytes]) -> dict[str, Any]:
    """Time of rANS alone for these streams: the same symbols by the same tables, without the network."""
    jobs = []
    for stream in coded:
        container = unpack(stream)
        head = container.header
        branch = codec.branch("s2")
        latent = branch.latent_shape(head.shape)
        shape = (1, codec.config.hyper, *(-(-side // 4) for side in latent))
        channels = np.repeat(np.arange(shape[1]), shape[2] * shape[3])
        decoder = Decoder(bytes(container.payload))
        z = decoder.get(codec.hyper_tables("s2"), channels)
        fraction = pieces.fraction_of(head.quality)
        _, entries = branch.entropy_parameters(torch.from_numpy(z.reshape(shape)), fraction, latent)
        flat = entries.reshape(-1).numpy()
        jobs.append((bytes(container.payload), z, channels, decoder.get(pieces.latent_tables(), flat), flat))

    def write() -> None:
        for _, z, channels, y, entries in jobs:
            coder = Encoder()
            coder.put(z, codec.hyper_tables("s2"), channels)
            coder.put(y, pieces.latent_tables(), entries)
            coder.finish()

    def read() -> None:
        for payload, _, channels, _, entries in jobs:
            decoder = Decoder(payload)
            decoder.get(codec.hyper_tables("s2"), channels)
            decoder.get(pieces.latent_tables(), entries)

    return {"write": write, "read": read}


def measure(codec: Codec, patches: list[Raster], quality: float, rounds: int) -> dict[str, Any]:
    """All figures of one kind of patches."""
    coded = codec.compress(patches, quality)
    reached = mean_psnr(patches, codec.decompress(coded))
    ways: dict[str, Any] = {}
    for size in BATCHES:
        ways[f"eoforge_encode_batch_{size}"] = lambda s=size: in_batches(
            lambda r: codec.compress(r, quality), patches, s
        )
        ways[f"eoforge_decode_batch_{size}"] = lambda s=size: in_batches(codec.decompress, coded, s)
        ways[f"eoforge_hash_stream_batch_{size}"] = lambda s=size: in_batches(codec.hash_stream, coded, s)
    ways["eoforge_stored_code"] = lambda: [stored_codes(stream, LIMITS) for stream in coded]
    rates: dict[str, Any] = {
        "eoforge": {"bpp": round(bpp(list(map(len, coded)), patches), 4), "psnr": round(reached, 2)}
    }
    for name, peer in PEERS.items():
        setting = peer.setting_for(patches[:6], mean_psnr(patches[:6], codec.decompress(coded[:6])))
        theirs = [peer.compress(raster, setting) for raster in patches]
        back = [peer.decompress(c, r.shape) for c, r in zip(theirs, patches, strict=True)]
        rates[name] = {
            "setting": round(setting, 3),
            "bpp": round(bpp([sum(map(len, c.values())) for c in theirs], patches), 4),
            "psnr": round(mean_psnr(patches, back), 2),
        }
        ways[f"{name}_encode"] = lambda p=peer, s=setting: [p.compress(raster, s) for raster in patches]
        ways[f"{name}_decode"] = lambda p=peer, t=theirs: [p.decompress(c, (120, 120)) for c in t]
    entropy = entropy_coding(codec, coded)
    ways |= {"entropy_write": entropy["write"], "entropy_read": entropy["read"]}
    seconds = best_seconds(ways, rounds)
    largest = BATCHES[-1]
    return {
        "patches": len(patches),
        "quality": quality,
        "at_equal_psnr": rates,
        "patches_per_s": {name: round(len(patches) / s, 1) for name, s in seconds.items()},
        "share_of_entropy_coding": {
            "encode": round(seconds["entropy_write"] / seconds[f"eoforge_encode_batch_{largest}"], 3),
            "decode": round(seconds["entropy_read"] / seconds[f"eoforge_decode_batch_{largest}"], 3),
        },
        "decode_over_hash_stream": round(
            seconds[f"eoforge_decode_batch_{largest}"] / seconds[f"eoforge_hash_stream_batch_{largest}"], 2
        ),
        "decode_over_stored_code": round(
            seconds[f"eoforge_decode_batch_{largest}"] / seconds["eoforge_stored_code"], 1
        ),
        "eoforge_bits_over_peers": {name: round(rates["eoforge"]["bpp"] / rates[name]["bpp"], 3) for name in PEERS},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="The learned codec against JPEG2000 and JPEG-XL at equal PSNR.")
    parser.add_argument("--patches", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--preset", choices=("tiny", "paper"), default="tiny")
    parser.add_argument("--quality", type=float, default=4.0)
    parser.add_argument("--out", help="file for the figures as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the peers work on one thread too
    figures: dict[str, Any] = {"preset": options.preset, "threads": 1}
    for kind in kinds():
        pairs = pairs_of(kind, options.patches)
        codec = Codec(getattr(CodecConfig, options.preset)())
        codec.initialise(batch_of(pairs_of("synthetic", 64)))
        codec.update()
        figures[kind] = measure(codec.eval(), rasters(pairs, "s2"), options.quality, options.rounds)
        print(json.dumps({kind: figures[kind]}, indent=2), flush=True)
    if options.out:
        Path(options.out).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
