"""Fixtures of the index tests: a small table of patches, a bundle, and an encoder of pixel bits."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import lance
import numpy as np
import pytest
import torch

from eoforge.bundle import write_bundle
from eoforge.data.records import record_batch
from eoforge.data.synthetic.archive import synthetic_pairs
from eoforge.data.tables.commit import create_table
from eoforge.data.tables.schema import PATCHES
from eoforge.storage.addresses import join, storage_options

PATCHES_COUNT = 40


class PixelEncoder:
    """Encoder whose codes are bits of the first pixels: different patches get different codes, without a model."""

    bits, embedding_dim, modalities, device = 16, 3, ("s1", "s2"), "cpu"

    def __init__(self):
        self.encoded: list[str] = []

    def encode(self, batch, modality):
        pixels = (batch.s1 if modality == "s1" else batch.s2_10m).numpy().reshape(len(batch), -1)
        self.encoded += [f"{patch_id}/{modality}" for patch_id in batch.patch_id]
        return pixels.view(np.uint8)[:, :2].copy(), pixels[:, :3].astype(np.float32)


def expected_code(pair, modality):
    pixels = pair.s1 if modality == "s1" else pair.s2_10m
    return pixels.reshape(-1).view(np.uint8)[:2]


@pytest.fixture(scope="session")
def pairs():
    return list(synthetic_pairs(PATCHES_COUNT, seed=3))


@pytest.fixture
def encoder():
    return PixelEncoder()


def write_patches(uri, pairs):
    """Version of the table after pairs are appended, without the ingestion."""
    table = create_table(uri, PATCHES)
    table.insert(record_batch(pairs), storage_options=storage_options(uri))
    return table.version


def flip_a_bit(codes_uri, modality="s2"):
    """Flips one bit of a code in the data files of a table; returns the code before and after."""
    rows = lance.dataset(codes_uri).to_table(columns=["code"], filter=f"modality = '{modality}'")
    code = bytes(rows["code"][len(rows) // 2].as_py())
    for path in Path(codes_uri, "data").iterdir():
        data = bytearray(path.read_bytes())
        place = data.find(code)
        if place >= 0:
            data[place] ^= 1
            path.write_bytes(data)
            return code, bytes(data[place : place + len(code)])
    raise AssertionError("no data file holds the code as it is")


def changed(pair, by=1):
    """The pair with other pixels, hence another digest."""
    return dataclasses.replace(pair, s2_10m=pair.s2_10m + np.uint16(by), s1=pair.s1 + np.float32(by))


def make_bundle(runs, patches_uri, version, seed=0):
    config = {
        "method": "ss_cm_rsir",
        "config": {},
        "bands": {"s1": ["VV", "VH"], "s2": ["B02"]},
        "normalisation": {},
        "interpolation": "nearest",
        "bits": PixelEncoder.bits,
        "embedding_dim": PixelEncoder.embedding_dim,
        "seed": seed,
        "patches": {"uri": patches_uri, "version": version},
        "code_revision": "test",
    }
    return write_bundle(runs, weights={"w": torch.zeros(1)}, config=config, metrics={}, readme="a bundle for tests")


@pytest.fixture
def archive(store_uri, pairs):
    """(patches uri, bundle) in a fresh store, local and S3."""
    uri = join(store_uri, "patches.lance")
    version = write_patches(uri, pairs)
    return uri, make_bundle(join(store_uri, "runs"), uri, version)
