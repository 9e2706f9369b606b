"""Open Inference Protocol V2 models: encoding per sensor, and search by code or patch, with metadata of all tensors.

Tensors are read and made in threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson
from google.protobuf import json_format
from kserve import InferRequest, InferResponse, Model

from eoforge.api.retrieval.v1 import retrieval_pb2 as pb
from eoforge.client.messages import owner_status
from eoforge.data.backscatter import require_decibels
from eoforge.data.bands import GROUPS, require_modality
from eoforge.data.search_filter import SearchFilter
from eoforge.errors import DataRefused, LimitExceeded, NotFound, UsageError
from eoforge.index.ivf.table import require_recall
from eoforge.index.search import MAX_K
from services._runtime.fair import FairPool
from services._runtime.oip.answers import flag, require_json_fits, response
from services._runtime.oip.tensors import DATATYPES, band_tensor, input_array, input_number, input_texts, tensor
from services.retrieval import answers
from services.retrieval.across import Across, Query
from services.retrieval.batching import EncodeBatcher, Encoding
from services.retrieval.images import Raster
from services.retrieval.paging import DEFAULT_PAGE
from services.retrieval.partners import Partners
from services.retrieval.settings import RetrievalSettings
from services.retrieval.state import IndexHolder, Served

GROUP_BY_COLUMN = {g.column: g for g in GROUPS}
MAX_FILTER_CHARS, MAX_MODALITY_CHARS = 32_768, 32
_CERTAINTY = "parameter min_recall or across"
AT_ONCE = 8
"""Queries of a request that are searched in one go."""
_ACROSS, _STATUS = "parameter across", ", ".join(owner_status(n) for n in pb.OwnerStatus.values() if n)


class EncodeModel(Model):
    """Encoding model: images of one sensor to codes and embeddings.

    Inputs are the columns of ``patches.lance`` that the encoder reads, ``[N, C, H, W]`` on native grids.
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        modality: str,
        holder: IndexHolder,
        batcher: EncodeBatcher,
        pool: FairPool,
        partners: Partners,
    ) -> None:
        super().__init__(f"{settings.model_name}-encode-{modality}")
        self._settings, self._modality, self._partners = settings, modality, partners
        self._holder, self._batcher, self._pool = holder, batcher, pool

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each input."""
        return [band_tensor(GROUP_BY_COLUMN[c]) for c in self._holder.current.columns(self._modality)]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each output."""
        encoder = self._holder.current.encoder
        embedding = tensor("embedding", "FP32", -1, encoder.embedding_dim, range="finite numbers")
        return [_code(encoder.bits), embedding]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Codes and embeddings of the images of one request.

        Raises:
            UsageError: An input is missing or has another type or shape.
            LimitExceeded: There are too many images.
            DataRefused: Pixels carry no data, or no backscatter in dB.
        """
        self._partners.require_own()
        served = self._holder.current
        rasters = await self._pool.run(self._rasters, payload, served)
        encodings = await self._batcher.encode(served.encoder, rasters, None)
        return response(self.name, payload, await self._pool.run(_stacked, encodings))

    def _rasters(self, payload: InferRequest, served: Served) -> list[Raster]:
        arrays = {}
        for column in served.columns(self._modality):
            group = GROUP_BY_COLUMN[column]
            given = input_array(payload, column, DATATYPES[group.dtype], group.shape, self._settings.max_images)
            needed = [i for i, band in enumerate(group.bands) if band in served.bands(self._modality)]
            complete = np.isfinite(given) if self._modality == "s1" else given != 0
            if not complete[:, needed].all():
                raise DataRefused(f"input {column} has pixels without data; images must be complete")
            if self._modality == "s1":
                require_decibels(given[:, needed], f"input {column}")
            arrays[column] = given
        if len({len(a) for a in arrays.values()}) != 1:
            raise UsageError("all inputs need the same number of images")
        count = len(next(iter(arrays.values())))
        return [Raster(self._modality, {c: a[i] for c, a in arrays.items()}) for i in range(count)]


class _Asked(NamedTuple):
    """Queries of one request: codes ``[N, K/8]``, hits, filter, least recall, and whether the answer tells its own."""

    codes: Any
    k: int
    chosen: SearchFilter
    min_recall: float
    tells: bool


class SearchModel(Model):
    """Search model: codes or patch ids to the ``k`` nearest patches of one sensor.

    Parameters of the request mean what the fields of the typed API mean: ``query_modality`` (s1 or s2) is the sensor of
    the patches, ``filter`` a Filter message in its JSON form, ``min_recall`` a number, ``across`` asks other owners too
    (one query a request).
    """

    def __init__(
        self,
        settings: RetrievalSettings,
        modality: str,
        holder: IndexHolder,
        pool: FairPool,
        across: Across,
        partners: Partners,
    ) -> None:
        super().__init__(f"{settings.model_name}-search-{modality}")
        self._settings, self._modality, self._partners = settings, modality, partners
        self._holder, self._pool, self._others = holder, pool, across

    def get_input_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each input: codes or patches, and a number of hits."""
        patches = tensor("patch_id", "BYTES", -1, instead_of="code", needs="parameter query_modality: s1 or s2")
        hits = tensor("k", "INT32", 1, optional="true", default=str(DEFAULT_PAGE), range=f"1 to {MAX_K}")
        return [_code(self._holder.current.encoder.bits), patches, hits]

    def get_output_types(self) -> list[dict[str, Any]]:
        """Name, type, shape and meaning of each output."""
        bits = self._holder.current.encoder.bits
        return [
            tensor("patch_id", "BYTES", -1, -1, order="by distance, then by patch id"),
            tensor("distance", "INT32", -1, -1, unit="bits that differ", range=f"0 to {bits}"),
            tensor("exact", "BOOL", 1, needs=_CERTAINTY),
            tensor("recall", "FP64", 1, needs=_CERTAINTY, range="0 to 1, as measured at 10 hits"),
            tensor("owner", "BYTES", -1, -1, needs=_ACROSS, order="as patch_id"),
            tensor("asked_owner", "BYTES", -1, needs=_ACROSS, order="by name"),
            tensor("asked_status", "BYTES", -1, needs=_ACROSS, order="as asked_owner", range=_STATUS),
        ]

    async def predict(
        self, payload: InferRequest, headers: Mapping[str, str] | None = None, response_headers: Any = None
    ) -> InferResponse:
        """Nearest patches of every code or patch of one request.

        Raises:
            UsageError: An input is missing or has another type or shape, ``k`` is below 1, or a parameter is malformed.
            LimitExceeded: There are too many codes or patches, or ``k`` is too large.
            NotFound: The index holds no codes of this sensor, or not one of the patches.
        """
        self._partners.require_own()
        served = self._holder.current
        if flag(payload.parameters, "across", False):
            query = await self._pool.run(self._query, payload, served)
            found = await self._others.search(query, None)
            return response(self.name, payload, await self._pool.run(_across_outputs, found))
        asked = await self._pool.run(self._asked, payload, served)
        groups = np.array_split(asked.codes, -(-len(asked.codes) // AT_ONCE))
        # One group after the other: a search of a large index takes long, and callers take turns between them.
        parts = [await self._pool.run(self._nearest, served, asked, group) for group in groups]
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in ("patch_id", "distance")}
        certainty = {name: np.min([part[name] for part in parts], axis=0) for name in set(parts[0]) - set(outputs)}
        return response(self.name, payload, outputs | certainty)

    def _query(self, payload: InferRequest, served: Served) -> Query:
        """Query across archives: one code, which other services take one at a time."""
        k, codes = _number_of_hits(payload), self._codes(payload, served)
        if len(codes) != 1:
            raise LimitExceeded(f"a search across archives takes one code or patch a request; got {len(codes)}")
        asked = len(self._settings.upstreams) + 1
        values = dict.fromkeys(("patch_id", "distance", "owner"), k) | dict.fromkeys(
            ("asked_owner", "asked_status"), asked
        )
        values |= {"exact": 1, "recall": 1}
        require_json_fits(payload, values, self._settings)
        message = _filter_message(payload)
        recall = _min_recall(payload, self._settings)
        return Query(served, codes[0], self._modality, message, answers.search_filter(message), k, recall)

    def _asked(self, payload: InferRequest, served: Served) -> _Asked:
        snapshot = served.snapshot
        if self._modality not in snapshot.modalities:
            raise NotFound(f"the index holds no codes of {self._modality}")
        k = _number_of_hits(payload)
        codes = self._codes(payload, served)
        count = len(codes) * min(k, len(snapshot))
        tells = "min_recall" in (payload.parameters or {}) or self._settings.min_recall < 1
        values = {"patch_id": count, "distance": count} | ({"exact": 1, "recall": 1} if tells else {})
        require_json_fits(payload, values, self._settings)
        chosen = answers.search_filter(_filter_message(payload))
        return _Asked(codes, k, chosen, _min_recall(payload, self._settings), tells)

    def _nearest(self, served: Served, asked: _Asked, codes: Any) -> dict[str, Any]:
        snapshot = served.snapshot
        found = snapshot.search(self._modality, codes, asked.k, asked.chosen, asked.min_recall)
        ids = snapshot.metadata(found.rows.ravel()).column("patch_id").to_pylist()
        outputs = {"patch_id": np.array(ids, dtype=object).reshape(found.rows.shape), "distance": found.distances}
        return outputs | (_certainty(found.exact, found.recall) if asked.tells else {})

    def _codes(self, payload: InferRequest, served: Served) -> Any:
        """Codes ``[N, K/8]`` of the queries."""
        limit = self._settings.max_images
        if payload.get_input_by_name("patch_id") is None:
            return input_array(payload, "code", "UINT8", (served.encoder.bits // 8,), limit)
        if payload.get_input_by_name("code") is not None:
            raise UsageError("a search has input code or input patch_id; got both")
        modality = require_modality(_text(payload, "query_modality", MAX_MODALITY_CHARS))
        names = input_texts(payload, "patch_id", limit)
        codes = [answers.code_of(served.snapshot, name, modality) for name in names]
        return np.array(codes, np.uint8).reshape(len(names), -1)


def _number_of_hits(payload: InferRequest) -> int:
    given = input_number(payload, "k", "INT32")
    k = DEFAULT_PAGE if given is None else int(given)
    if k < 1:
        raise UsageError(f"k must be 1 to {MAX_K}; got {k}")
    if k > MAX_K:
        raise LimitExceeded(f"k must be 1 to {MAX_K}; got {k}")
    return k


def _across_outputs(found: pb.SearchResponse) -> dict[str, Any]:
    """Outputs of a search across archives."""
    columns = {
        "patch_id": [hit.patch.patch_id for hit in found.hits],
        "owner": [hit.owner for hit in found.hits],
        "asked_owner": [report.owner for report in found.owners],
        "asked_status": [owner_status(report.status) for report in found.owners],
    }
    texts = {name: np.array(values, dtype=object) for name, values in columns.items()}
    distance = np.array([[hit.distance for hit in found.hits]], dtype=np.int32)
    return {
        "patch_id": texts["patch_id"][None],
        "distance": distance,
        "owner": texts["owner"][None],
        "asked_owner": texts["asked_owner"],
        "asked_status": texts["asked_status"],
        **_certainty(found.exact, found.recall),
    }


def _certainty(exact: bool, recall: float) -> dict[str, Any]:
    """Outputs that say whether an answer is exact."""
    return {"exact": np.array([exact]), "recall": np.array([recall], np.float64)}


def _filter_message(payload: InferRequest) -> pb.Filter:
    text = _text(payload, "filter", MAX_FILTER_CHARS)
    try:
        found = orjson.loads(text or "{}")
        if not isinstance(found, dict):
            raise UsageError("parameter filter must be a JSON object")
        return json_format.ParseDict(found, pb.Filter())
    except (orjson.JSONDecodeError, json_format.ParseError) as error:
        raise UsageError("parameter filter must be a Filter of the typed API in its JSON form") from error


def _min_recall(payload: InferRequest, settings: RetrievalSettings) -> float:
    given = (payload.parameters or {}).get("min_recall", settings.min_recall)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise UsageError("parameter min_recall must be a number")
    return require_recall(float(given))


def _text(payload: InferRequest, name: str, limit: int) -> str:
    found = (payload.parameters or {}).get(name, "")
    if not isinstance(found, str):
        raise UsageError(f"parameter {name} must be a text")
    if len(found) > limit:
        raise LimitExceeded(f"parameter {name} may have {limit} characters; this one has {len(found)}")
    return found


def _code(bits: int) -> dict[str, Any]:
    meaning = "8 bits; bit k of a code is bit k % 8 of byte k // 8"
    return tensor("code", "UINT8", -1, bits // 8, unit=meaning, range="0 to 255")


def _stacked(encodings: list[Encoding]) -> dict[str, Any]:
    return {"code": np.stack([c for c, _ in encodings]), "embedding": np.stack([e for _, e in encodings])}
