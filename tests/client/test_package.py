"""Package ``eoforge.client``: lazy names, light imports, enum numbers equal to the protos."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import eoforge.client
from eoforge.api.compression.v1 import compression_pb2
from eoforge.api.retrieval.v1 import retrieval_pb2
from eoforge.client import wire
from eoforge.data.modalities import COMPRESSION_MODALITIES, MODALITY_NAMES, RETRIEVAL_MODALITIES
from eoforge.errors import UsageError

NAMES = ("RetrievalClient", "CompressionClient", "FederationClient", "SiloClient", "RemoteError", "SearchFilter", "Hit")


@pytest.mark.parametrize("name", [*NAMES, *sum(eoforge.client._NAMES.values(), ())])
def test_every_name_is_importable_from_the_package(name: str) -> None:
    assert getattr(eoforge.client, name).__name__ == name


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="RetrievalKlient"):
        getattr(eoforge.client, "RetrievalKlient")  # noqa: B009  # the name must not exist for type checkers


def test_a_client_loads_neither_torch_nor_other_apis() -> None:
    code = (
        "import sys, eoforge.client\n"
        "assert 'grpc' not in sys.modules\n"
        "from eoforge.client import RetrievalClient\n"
        "heavy = ('torch', 'lance', 'pyarrow', 'rasterio', 'eoforge.api.federation')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("pb", "numbers"), [(retrieval_pb2, RETRIEVAL_MODALITIES), (compression_pb2, COMPRESSION_MODALITIES)]
)
def test_modality_numbers_are_those_of_both_protos(pb: object, numbers: dict[str, int]) -> None:
    known = {number: key.removeprefix("MODALITY_").lower() for key, number in pb.Modality.items()}
    del known[0]
    assert known == MODALITY_NAMES
    assert {number: name for name, number in numbers.items()} == MODALITY_NAMES


@pytest.mark.parametrize(("band", "dtype"), [("VV", "float32"), ("B02", "uint16"), ("reference_map", "uint16")])
def test_band_samples_survive_the_wire(band: str, dtype: str) -> None:
    samples = np.arange(6, dtype=dtype).reshape(2, 3)
    message = retrieval_pb2.Band(**wire.band_fields(band, samples, wire.modality_of(band)))
    back = wire.band_samples(message)
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, samples)


def test_float_reflectance_is_refused() -> None:
    with pytest.raises(UsageError, match="band B02 of s2 must be a"):
        wire.band_fields("B02", np.zeros((2, 2), dtype=np.float32), "s2")
