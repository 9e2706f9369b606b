"""Actor and coordinator without the network: lost leases, interrupted journals, too few silos."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from eoforge.api.federation.v1 import federation_pb2 as pb
from eoforge.errors import LeaseLost
from eoforge.federated.run.journal import Journal
from eoforge.federated.store.chunk_store import ChunkStore
from eoforge.storage.objects import ObjectStore
from services.federation.coordinator import Coordinator
from services.federation.telemetry import QUARANTINED, RUNS
from tests.services.federation.helpers import settings_for


def created(run_id: str, **spec: Any) -> pb.RunEvent:
    policy = pb.RoundPolicy(rounds=1, min_silos=1)
    return pb.RunEvent(created=pb.Created(run_id=run_id, spec=pb.RunSpec(strategy="fedavg", policy=policy, **spec)))


def with_coordinator(folder: Path, use: Any) -> None:
    async def main() -> None:
        coordinator = Coordinator(settings_for(folder))
        await coordinator.start()
        try:
            await use(coordinator)
        finally:
            await coordinator.stop()

    asyncio.run(main())


def test_whoever_cannot_write_steps_down_and_takes_the_run_again_when_it_is_free(tmp_path: Path) -> None:
    """A silo's answer finds the position taken: the coordinator must not keep the run and refuse for ever."""
    store = ObjectStore(str(tmp_path))
    Journal(store, "run").append(created("run"), "alice")
    store.put("index/1.run", b"")

    async def use(coordinator: Coordinator) -> None:
        mine = coordinator.actors["run"]
        other = Journal(store, "run")
        other.take("two")
        with pytest.raises(LeaseLost):
            await mine.write("a", dropped=pb.Dropped(silo="a"))
        assert "run" not in coordinator.actors
        other.take("one")  # as after a PUT whose answer was lost: the newest event is ours again
        await coordinator._take_runs()
        assert await coordinator.actors["run"].write("a", dropped=pb.Dropped(silo="a"))

    with_coordinator(tmp_path, use)


def test_one_unreadable_run_or_silo_does_not_keep_a_coordinator_from_starting(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    for name in ("good", "bad"):
        Journal(store, name).append(created(name), "alice")
    store.put("index/1.good", b"")
    store.put("index/2.bad", b"")
    store.put("runs/bad/journal/000000000002.json", b"{")
    store.put("silos/a.json", b"")
    store.put("silos/b.json", b'{"siloId": "b"}')

    async def use(coordinator: Coordinator) -> None:
        assert sorted(coordinator.actors) == ["good"]
        assert sorted(coordinator.silos.known) == ["b"]

    with_coordinator(tmp_path, use)


@pytest.mark.parametrize(
    ("key", "data"),
    [
        ("runs/bad/journal/000000000002.json", b"\xff\xfe"),
        ("runs/bad/journal/000000000002.json", b'{"sequence": "9"}'),
        ("runs/bad/journal/000000000002.json", b'{"sequence": "2", "at": "9999999999-01-01T00:00:00Z"}'),
        ("runs/bad/journal/000000000001.json", b'{"sequence": "1", "created": {"spec": {"strategy": "fedsgd"}}}'),
        ("runs/bad/snapshots/000000000001.json", b"\xff"),
        ("index/noname", b""),
        ("leader/000000000004", b"\xff\xfe\x00"),
        ("leader/zzz", b"one 1"),
        ("silos/a.json", b"\xff"),
        ("silos/a.json", b'{"siloId": "../b"}'),
    ],
)
def test_a_damaged_object_is_set_aside_and_all_else_goes_on(tmp_path: Path, key: str, data: bytes) -> None:
    store = ObjectStore(str(tmp_path))
    for number, name in enumerate(("bad", "good")):
        Journal(store, name).append(created(name), "alice")
        store.put(f"index/{number + 1}.{name}", b"")
    store.put("silos/b.json", b'{"siloId": "b"}')
    original = store.get(key) if store.exists(key) else None
    store.put(key, data)
    damaged_run = key.startswith("runs/bad/journal")

    async def use(coordinator: Coordinator) -> None:
        async with asyncio.timeout(60):
            while not coordinator.actors.keys() >= ({"good"} if damaged_run else {"good", "bad"}):
                await coordinator._renew()
                await asyncio.sleep(0.01)
        assert sorted(coordinator.silos.known) == ["b"]
        assert store.exists("quarantine/runs/bad") == damaged_run
        assert store.exists("quarantine/silos/a.json") == (key == "silos/a.json")
        assert QUARANTINED._value.get() == (1 if damaged_run or key == "silos/a.json" else 0)
        assert await coordinator.actors["good"].write("a", dropped=pb.Dropped(silo="a"))
        if damaged_run:
            if original is None:
                store.delete(key)
            else:
                store.put(key, original)
            store.delete("quarantine/runs/bad")
            await coordinator._renew()
            assert "bad" in coordinator.actors, "a repaired run goes on"

    with_coordinator(tmp_path, use)


def test_what_a_coordinator_died_over_after_a_runs_end_is_cleaned_by_the_next(tmp_path: Path) -> None:
    store = ObjectStore(str(tmp_path))
    journal, event = Journal(store, "run"), created("run")
    event.created.model = ChunkStore(store, "runs/run/objects").put_manifest(pb.Manifest())
    journal.append(event, "alice")
    journal.append(pb.RunEvent(status_changed=pb.StatusChanged(status=pb.RUN_STATUS_CANCELLED)), "alice")
    for key in ("index/1.run", "runs/run/secret", "runs/run/rounds/000000/a/chunks/00"):
        store.put(key, b"")

    async def use(coordinator: Coordinator) -> None:
        async with asyncio.timeout(60):
            while not store.exists("ended/run"):
                await asyncio.sleep(0.01)
        assert not store.exists("runs/run/secret")
        assert not list(store.list("runs/run/rounds"))
        assert RUNS._value.get() == 0

    with_coordinator(tmp_path, use)

    async def closed(coordinator: Coordinator) -> None:
        assert not coordinator.actors, "an ended run is acted for once"

    with_coordinator(tmp_path, closed)


@pytest.mark.parametrize(("dropped", "expected"), [([], pb.RUN_STATUS_RUNNING), (["b"], pb.RUN_STATUS_FAILED)])
def test_a_masked_round_fails_when_too_few_are_left_to_remove_the_masks(
    tmp_path: Path, dropped: list[str], expected: int
) -> None:
    store = ObjectStore(str(tmp_path))
    journal = Journal(store, "run")
    store.put("index/1.run", b"")
    journal.append(created("run", privacy=pb.PrivacyPolicy(secure_aggregation=True)), "alice")
    opened = pb.RoundOpened(number=1, selected=["a", "b", "c"], wanted=3, phase=pb.PHASE_KEYS)
    journal.append(pb.RunEvent(round_opened=opened), "one")
    for name in opened.selected:
        journal.append(pb.RunEvent(keys_advertised=pb.KeysAdvertised(silo=name)), name)
    journal.append(pb.RunEvent(sealed=pb.Sealed(silos=["a", "b"])), "one")
    for name in dropped:
        journal.append(pb.RunEvent(dropped=pb.Dropped(silo=name)), name)

    async def use(coordinator: Coordinator) -> None:
        await coordinator.actors["run"]._advance()
        assert coordinator.actors["run"].run.status == expected

    with_coordinator(tmp_path, use)


@pytest.mark.parametrize("agreed", [["a"], ["a", "b"]])
def test_nobody_masks_among_fewer_than_three(tmp_path: Path, agreed: list[str]) -> None:
    """Whatever the quorum: one silo's "sum" is its update, and of two each would know the other's."""
    store = ObjectStore(str(tmp_path))
    journal = Journal(store, "run")
    store.put("index/1.run", b"")
    start = created("run", privacy=pb.PrivacyPolicy(secure_aggregation=True))
    start.created.spec.policy.quorum = 1
    start.created.spec.policy.deadline.FromMilliseconds(1)
    journal.append(start, "alice")
    opened = pb.RoundOpened(number=1, selected=["a", "b", "c"], wanted=3, phase=pb.PHASE_KEYS)
    journal.append(pb.RunEvent(round_opened=opened), "one")
    for name in agreed:
        journal.append(pb.RunEvent(keys_advertised=pb.KeysAdvertised(silo=name)), name)

    async def use(coordinator: Coordinator) -> None:
        await coordinator.actors["run"]._advance()
        run = coordinator.actors["run"].run
        assert run.status == pb.RUN_STATUS_FAILED
        assert f"{len(agreed)} of 3 silos" in run.failure

    with_coordinator(tmp_path, use)


@pytest.mark.parametrize(("strategy", "expected"), [("fedavg", ["a", "b"]), ("pfedla", ["a"])])
def test_a_silo_that_enrols_during_a_run_joins_where_it_can(tmp_path: Path, strategy: str, expected: list[str]) -> None:
    store = ObjectStore(str(tmp_path))
    journal = Journal(store, "run")
    store.put("index/1.run", b"")
    start = created("run")
    start.created.spec.strategy, start.created.spec.policy.rounds = strategy, 2
    journal.append(start, "alice")
    opened = pb.RoundOpened(number=1, selected=["a"], wanted=1, members=[pb.Member(silo="a", samples=3)])
    journal.append(pb.RunEvent(round_opened=opened), "one")
    journal.append(pb.RunEvent(round_closed=pb.RoundClosed(summary=pb.RoundSummary(number=1))), "one")

    async def use(coordinator: Coordinator) -> None:
        for name in ("a", "b"):
            await coordinator.register(pb.Silo(silo_id=name, samples=3))
            coordinator.silos._streams[name] = 1
        await coordinator.actors["run"]._advance()
        round_ = coordinator.actors["run"].run.round
        assert (round_.number, list(round_.selected)) == (2, expected)
        assert [member.silo for member in round_.members] == expected

    with_coordinator(tmp_path, use)
