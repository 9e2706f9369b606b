"""Streams of the learned codec: equal decoding everywhere, refusal of damage."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from eoforge.codec.container import LIMITS, inspect, pack, unpack
from eoforge.codec.learned import pieces, streams
from eoforge.codec.learned.model import Codec
from eoforge.codec.raster import Raster
from eoforge.errors import BundleError, DataRefused

from .conftest import SMALL


def test_georeference_name_and_code_round_trip(codec: Codec, both: list[Raster]) -> None:
    stream = codec.compress(both[:1], 3)[0]
    decoded, header = codec.decompress([stream])[0], inspect(stream)
    assert decoded.georeference == both[0].georeference
    assert decoded.patch_id == both[0].patch_id
    assert header.bands == tuple(both[0].bands)
    assert header.bundle == codec.bundle_id[:16]
    assert header.codes == 2
    for modality in ("s1", "s2"):
        made = codec.hash_stream([stream], modality)
        np.testing.assert_array_equal(streams.stored_codes(stream, LIMITS)[modality], made)


def integers(codec: Codec, coded: list[bytes]) -> list[np.ndarray]:
    """The latents in streams, one array per stream."""
    found = []
    for stream in coded:
        container = unpack(stream)
        spec = pieces.PieceSpec(
            container.header.bands, container.header.shape, pieces.fraction_of(container.header.quality)
        )
        latents = pieces.read_latents(codec, [container.payload], spec)
        found.append(np.concatenate([latent.cpu().numpy().ravel() for latent in latents.values()]))
    return found


def test_streams_do_not_depend_on_batch_or_threads(codec: Codec, optical: list[Raster]) -> None:
    four = optical[:4]
    together = codec.compress(four, 4.3125)
    alone = [codec.compress([raster], 4.3125)[0] for raster in four]
    container = unpack(together[0])
    spec = pieces.PieceSpec(container.header.bands, container.header.shape, pieces.fraction_of(4.3125))
    batched = pieces.read_latents(codec, [unpack(s).payload for s in together], spec)["s2"].numpy()
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            for i, one in enumerate(integers(codec, together)):
                np.testing.assert_array_equal(one, batched[i].ravel())
            for first, second in zip(codec.decompress(alone), [codec.decompress([s])[0] for s in alone], strict=True):
                for band, pixels in first.bands.items():
                    assert np.abs(pixels.astype(int) - second.bands[band]).max() <= 1
    finally:
        torch.set_num_threads(threads)
    # Analysis is float, so symbols of another batch size may differ here and there; that they decode may not.
    assert np.mean(integers(codec, alone)[0] == integers(codec, together)[0]) > 0.98


def test_another_process_reads_the_same_integers(tmp_path: Path, codec: Codec, both: list[Raster]) -> None:
    coded = codec.compress(both[:2], 5.5)
    for i, stream in enumerate(coded):
        (tmp_path / f"{i}.eofc").write_bytes(stream)
    save_file(codec.state_dict(), tmp_path / "weights.safetensors")
    program = (
        "import sys, hashlib; from pathlib import Path; from safetensors.torch import load_file\n"
        "from eoforge.codec.learned.model import Codec; from tests.codec.conftest import SMALL\n"
        "from tests.codec.test_streams import integers\n"
        "folder = Path(sys.argv[1]); codec = Codec(SMALL)\n"
        "codec.load_state_dict(load_file(folder / 'weights.safetensors'))\n"
        "coded = [(folder / f'{i}.eofc').read_bytes() for i in range(2)]\n"
        "print(hashlib.sha256(b''.join(a.tobytes() for a in integers(codec, coded))).hexdigest(),"
        " codec.hash_stream(coded, 's1').tobytes().hex())\n"
    )
    digest = hashlib.sha256(b"".join(a.tobytes() for a in integers(codec, coded))).hexdigest()
    expected = f"{digest} {codec.hash_stream(coded, 's1').tobytes().hex()}\n"
    env = os.environ | {"OMP_NUM_THREADS": "3", "MKL_CBWR": "COMPATIBLE"}
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env=env, cwd=root, capture_output=True, text=True, check=True
    )
    assert run.stdout == expected


@pytest.mark.gpu
def test_streams_cross_between_cpu_and_gpu(codec: Codec, both: list[Raster]) -> None:
    device_codec = Codec(SMALL)
    device_codec.load_state_dict(codec.state_dict())
    device_codec.to("cuda").eval()
    for maker in (codec, device_codec):
        coded = maker.compress(both, 5.25)
        for here, there in zip(integers(codec, coded), integers(device_codec, coded), strict=True):
            np.testing.assert_array_equal(here, there)
        np.testing.assert_array_equal(codec.hash_stream(coded, "s2"), device_codec.hash_stream(coded, "s2"))
        for here, there in zip(codec.decompress(coded), device_codec.decompress(coded), strict=True):
            assert max(np.abs(p.astype(float) - there.bands[b]).max() for b, p in here.bands.items()) <= 1


@pytest.mark.parametrize("quality", [-0.5, 7.5, 3.03])
def test_an_invalid_quality_is_refused(codec: Codec, optical: list[Raster], quality: float) -> None:
    container = unpack(codec.compress(optical[:1], 3)[0])
    header = dataclasses.replace(container.header, quality=quality)
    with pytest.raises(DataRefused, match="multiple of 1/16"):
        codec.decompress([pack(header, bytes(container.payload), bytes(container.codes))])


def test_encoding_twice_gives_the_same_bytes(codec: Codec, both: list[Raster]) -> None:
    assert codec.compress(both, 3) == codec.compress(both, 3)


def test_a_stream_of_another_bundle_is_refused(codec: Codec, optical: list[Raster]) -> None:
    stream = codec.compress(optical[:1], 3)[0]
    header = dataclasses.replace(inspect(stream), bundle="f" * 16)
    container = unpack(stream)
    with pytest.raises(BundleError, match="ffffffffffffffff"):
        codec.decompress([pack(header, bytes(container.payload), bytes(container.codes))])


def test_damage_below_the_checksum_is_detected(codec: Codec, optical: list[Raster]) -> None:
    """A payload that was changed and sealed again still ends in an error, because the coder is not empty."""
    stream = codec.compress(optical[:1], 5)[0]
    container = unpack(stream)
    payload = bytearray(container.payload)
    payload[len(payload) // 2] ^= 0x55
    with pytest.raises(DataRefused):
        codec.decompress([pack(container.header, bytes(payload), bytes(container.codes))])


def test_backscatter_that_is_not_finite_is_refused(codec: Codec, both: list[Raster]) -> None:
    holes = {b: p.copy() for b, p in both[0].only("s1").bands.items()}
    holes["VV"][3, 4] = np.nan
    with pytest.raises(DataRefused, match="VV"):
        codec.compress([Raster(holes)], 3)
