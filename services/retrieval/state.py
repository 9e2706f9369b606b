"""Served index, and its replacement by a newer version during requests.

A request reads :attr:`IndexHolder.current` once, so a replacement never changes the index of a running request; the old
index is freed when its last request ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog
from prometheus_client import Counter, Gauge

from eoforge.bundle import Bundle
from eoforge.data.bands import GROUPS, MODALITIES
from eoforge.errors import BundleError, DataRefused, NotFound
from eoforge.index.encoder import Encoder
from eoforge.index.ivf.search import IvfSnapshot
from eoforge.index.snapshot import Opening, Snapshot, open_snapshot
from eoforge.index.streams import StreamReader, holds_streams
from eoforge.methods import get_method
from eoforge.methods.codecs import coder_of
from eoforge.storage.addresses import TableRef, open_table
from services._runtime.errors import NotReady
from services.retrieval.images import Raster, batch_of, empty_columns
from services.waiting import LONGEST_WAIT_S, Waiting

if TYPE_CHECKING:
    import lance

VERSION = Gauge("eoforge_index_version", "Version of the codes that are served.")
PATCHES = Gauge("eoforge_index_patches", "Patches in the index.")
SWAPS = Counter("eoforge_index_swaps_total", "Attempts to take up a newer version.", ("result",))

_RETRY_S = 5.0

log = structlog.get_logger("index")


@dataclass(frozen=True)
class Served:
    """One version of an index with all data for answers.

    Attributes:
        snapshot: Codes and metadata.
        encoder: Model of the bundle that made the codes.
        bundle: Bundle that made the codes.
        patches: Version of the patches of the codes.
        streams: Source of pixels where the patches hold none; None if the table has no streams.
    """

    snapshot: Snapshot
    encoder: Encoder
    bundle: Bundle
    patches: lance.LanceDataset = field(repr=False)
    streams: StreamReader | None = field(default=None, repr=False)

    def bands(self, modality: str) -> tuple[str, ...]:
        """Bands of the encoder."""
        return tuple(self.bundle.config["bands"][modality])

    def columns(self, modality: str) -> tuple[str, ...]:
        """Columns of ``patches.lance`` with those bands."""
        needed = set(self.bands(modality))
        return tuple(g.column for g in GROUPS if needed & set(g.bands))


def load(codes: TableRef, how: Opening, previous: Served | None = None) -> Served:
    """Index of one version of the codes.

    The encoder of ``previous`` is reused if the bundle is the same, and its rows if the codes have only grown.

    Raises:
        NotFound: Codes, patches or bundle do not exist.
        BundleError: The bundle is damaged, differs from the bundle of the codes, or makes codes of another length.
    """
    snapshot = open_snapshot(codes, how, None if previous is None else previous.snapshot)
    info = snapshot.info
    patches, table = info.open_patches(), open_table(TableRef(codes.uri, snapshot.version))
    if previous is not None and previous.bundle.id == info.bundle_id:
        streams = StreamReader(table, coder_of(previous.encoder)) if holds_streams(table) else None
        return Served(snapshot, previous.encoder, previous.bundle, patches, streams)
    bundle = info.open_bundle()
    encoder = get_method(info.method).load(bundle, how.device)
    if encoder.bits != info.bits:
        raise BundleError(f"codes of {codes} have {info.bits} bits, but bundle {bundle.short_id} makes {encoder.bits}")
    for modality in encoder.modalities:
        # Warm-up: the first call of a model is by far its slowest.
        encoder.encode(batch_of([Raster(modality, empty_columns(MODALITIES[modality]))]), modality)
    streams = StreamReader(table, coder_of(encoder)) if holds_streams(table) else None
    return Served(snapshot, encoder, bundle, patches, streams)


def require_match(newer: Snapshot, served: Snapshot) -> None:
    """Check that a newer version can replace the served one: an empty or foreign table must not end full answers.

    Raises:
        DataRefused: The newer version lacks a served modality, more than half of the served patches, or is of another
            engine; or its IVF index is not built yet.
    """
    where = f"version {newer.version} of {newer.uri}"
    if type(newer) is not type(served):
        raise DataRefused(f"{where} was made for another engine than version {served.version}; restart the service")
    if isinstance(newer, IvfSnapshot) and isinstance(served, IvfSnapshot) and newer.indexed < 0.5 <= served.indexed:
        raise DataRefused(
            f"the index of {where} was built from {newer.indexed:.0%} of its codes; expected at least half. Build it, "
            "and it is taken up"
        )
    lost = set(served.modalities) - set(newer.modalities)
    if lost:
        raise DataRefused(f"{where} has no codes of {', '.join(sorted(lost))}, which version {served.version} has")
    kept = served.held_by(newer)  # type: ignore[arg-type]  # of the same type, see above
    if 2 * kept < len(served):
        raise DataRefused(
            f"{where} holds {kept} of the {len(served)} patches of version {served.version}; expected at least half. "
            "If patches were removed on purpose, restart the service"
        )


class IndexHolder:
    """Holder of the served index, which polls for newer versions.

    Args:
        codes: Table of codes; with a version it is never replaced.
        how: Device, local cache and limits; None for the defaults.
        poll_seconds: Seconds between polls.

    Attributes:
        on_first: Called when the first index is loaded.
    """

    def __init__(self, codes: TableRef, how: Opening | None, poll_seconds: float) -> None:
        self._codes, self._how, self._poll_seconds = codes, how or Opening(), poll_seconds
        self._served: Served | None = None
        self._waiting = Waiting(self._first, "index", str(codes), min(poll_seconds, LONGEST_WAIT_S))
        self.on_first: Callable[[], Awaitable[None]] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def current(self) -> Served:
        """Served index; to be read once per request."""
        if self._served is None:
            raise NotReady("there is no index yet; the service answers as soon as its archive is indexed", _RETRY_S)
        return self._served

    @property
    def loaded(self) -> bool:
        """Whether there is an index."""
        return self._served is not None

    async def start(self) -> None:
        """Loads the index and starts polling in the background; without an index it waits there for one.

        Raises:
            EoforgeError: The index is damaged, or does not fit its bundle or patches.
        """
        await self._waiting.start()

    async def stop(self) -> None:
        """Stops waiting and polling."""
        await self._waiting.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def refresh(self) -> bool:
        """Replaces the index by a newer version, if any; returns whether it did.

        Raises:
            EoforgeError: The newer version cannot be loaded, is damaged, or does not match the served one; the old
                version stays.
        """
        newest = await asyncio.to_thread(lambda: open_table(TableRef(self._codes.uri)).version)
        if newest == self.current.snapshot.version:
            return False
        ref = TableRef(self._codes.uri, newest)
        newer = await asyncio.to_thread(load, ref, self._how, self.current)
        await asyncio.to_thread(require_match, newer.snapshot, self.current.snapshot)
        self._replace(newer)
        return True

    async def _first(self) -> None:
        found = await asyncio.to_thread(load, self._codes, self._how)
        if self._codes.version is None and not len(found.snapshot):  # a job has made the table and not committed yet
            raise NotFound(f"the index at {self._codes} holds no codes yet")
        self._replace(found)
        if self._codes.version is None:
            self._task = asyncio.create_task(self._poll())
        if self.on_first is not None:
            await self.on_first()

    def _replace(self, served: Served) -> None:
        self._served = served
        VERSION.set(served.snapshot.version)
        PATCHES.set(len(served.snapshot))
        log.info("serving index", version=served.snapshot.version, patches=len(served.snapshot))

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                if await self.refresh():
                    SWAPS.labels("done").inc()
            except Exception:
                # An unreachable store or an incomplete bundle must not end the service: it keeps the old version.
                SWAPS.labels("failed").inc()
                log.exception("newer index refused", serving=self.current.snapshot.version)
