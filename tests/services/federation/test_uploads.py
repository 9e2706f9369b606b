"""Limits of uploads, per silo and in total."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.chunks import digest_of, file_manifest
from eoforge.storage.objects import ObjectStore
from eoforge.storage.tensorfile import CHUNK_BYTES, write_file
from services._runtime.auth import CALLER, Caller
from services._runtime.errors import Overloaded
from services.federation.uploads import MAX_STREAMS, STORING, Uploads, chunks_of


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(function, *arguments)


def test_one_silo_does_not_take_all_places(tmp_path: Path) -> None:
    async def main() -> None:
        uploads, store = Uploads(in_thread, 64), ObjectStore(str(tmp_path))
        hold = asyncio.Event()

        async def slow() -> AsyncIterator[tuple[int, bytes]]:
            await hold.wait()
            for _ in ():
                yield 0, b""

        def begin(silo: str, run: int = 0) -> asyncio.Task[int]:
            objects = ChunkStore(store, f"runs/r{run}/rounds/000001/{silo}")
            return asyncio.create_task(uploads.receive(objects, pb.Manifest(), "0" * 64, slow(), False))

        held = [begin("greedy", run) for run in range(MAX_STREAMS)]  # one who takes part in many runs is still one
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="uploads of greedy"):
            await begin("greedy")
        held.append(begin("other"))
        hold.set()
        assert await asyncio.gather(*held, begin("greedy")) == [0] * (MAX_STREAMS + 2)

    asyncio.run(main())


def test_idle_streams_of_one_caller_lock_nobody_out(tmp_path: Path) -> None:
    """Places are shared: who holds most of them loses the last one to a caller with fewer."""

    async def main() -> None:
        uploads, store, hold = Uploads(in_thread, 4), ObjectStore(str(tmp_path)), asyncio.Event()

        async def idle() -> AsyncIterator[tuple[int, bytes]]:
            await hold.wait()
            for _ in ():
                yield 0, b""

        def begin(caller: str, operator: bool) -> asyncio.Task[int]:
            async def upload() -> int:
                CALLER.set(Caller(caller, "token"))
                objects = ChunkStore(store, "uploads" if operator else f"runs/r/rounds/000001/{caller}")
                return await uploads.receive(objects, pb.Manifest(), "0" * 64, idle(), None if operator else False)

            return asyncio.create_task(upload())

        held = [begin("operator", True) for _ in range(4)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="uploads of operator"):
            await begin("operator", True)
        silos = [begin(name, False) for name in ("a", "b", "c")]
        lost = await asyncio.gather(*held[1:], return_exceptions=True)
        assert [type(error) for error in lost] == [Overloaded] * 3
        with pytest.raises(Overloaded, match="4 uploads run"):  # all places are held by one caller each
            await begin("d", False)
        hold.set()
        assert await asyncio.gather(held[0], *silos, begin("d", False)) == [0] * 5

    asyncio.run(main())


def test_however_many_silos_send_few_chunks_are_in_memory(tmp_path: Path) -> None:
    async def main() -> None:
        store, full, gate = ObjectStore(str(tmp_path)), asyncio.Event(), asyncio.Event()
        now, peak = 0, 0

        async def held(*_: Any) -> None:
            nonlocal now, peak
            now, peak = now + 1, max(peak, now + 1)
            if now == STORING:
                full.set()
            await gate.wait()
            now -= 1

        async def messages(count: int) -> AsyncIterator[pb.PutUpdateRequest]:
            for index in range(count):
                yield pb.PutUpdateRequest(chunk=pb.Chunk(index=index, data=bytes(CHUNK_BYTES)))

        uploads, sent = Uploads(held, 64), pb.Manifest(length=2 * CHUNK_BYTES, chunks=[bytes(32)] * 2)
        streams = [
            asyncio.create_task(
                uploads.receive(
                    ChunkStore(store, f"runs/r/rounds/000001/s{silo}"),
                    sent,
                    digest_of(sent),
                    chunks_of(pb.PutUpdateRequest(), messages(2)),
                    False,
                )
            )
            for silo in range(STORING)
        ]
        async with asyncio.timeout(60):
            await full.wait()
        gate.set()
        assert await asyncio.gather(*streams) == [2] * STORING
        assert peak == STORING

    asyncio.run(main())


def test_of_what_a_silo_sends_only_the_newest_is_remembered(tmp_path: Path) -> None:
    async def main() -> None:
        uploads, store = Uploads(in_thread, 64), ObjectStore(str(tmp_path / "store"))
        objects = ChunkStore(store, "runs/r/rounds/000001/a")
        for value in range(3):
            path = tmp_path / "update"
            write_file(path, {"delta/w": np.full(4, value, np.float32)})
            manifest, data = file_manifest(str(path)), path.read_bytes()
            assert hashlib.sha256(data).digest() == manifest.chunks[0]

            async def chunks(data: bytes = data) -> AsyncIterator[tuple[int, bytes]]:
                yield 0, data

            await uploads.receive(objects, manifest, digest_of(manifest), chunks(), True)
            assert uploads.facts(objects, manifest, digest_of(manifest), True)[0].squares == 4 * value**2
        assert len(uploads._seen) == 1
        uploads.forget(objects, digest_of(manifest))
        assert not uploads._seen

    asyncio.run(main())
