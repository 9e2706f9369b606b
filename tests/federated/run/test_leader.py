"""Who leads: one at a time, by terms on the store; silence is judged by the watcher's own clock."""

from __future__ import annotations

from pathlib import Path

from eoforge.federated.run.leader import Beacon, Leadership
from eoforge.storage.objects import ObjectStore


class World:
    """Coordinators on one store, with a clock that tests move."""

    def __init__(self, folder: Path) -> None:
        self.store, self.now = ObjectStore(str(folder)), 0.0

    def leadership(self, name: str) -> Leadership:
        return Leadership(self.store, name, 10.0, lambda: self.now)


def test_only_silence_by_the_watchers_own_clock_makes_a_coordinator_gone(tmp_path: Path) -> None:
    world = World(tmp_path)
    one = Beacon(world.store, "one", 10.0)
    two = Beacon(world.store, "two", 10.0, clock=lambda: world.now)
    one.beat()
    assert not two.is_gone("one")
    world.now = 9.0
    assert not two.is_gone("one")
    one.beat()
    world.now = 18.0
    assert not two.is_gone("one")
    world.now = 29.0
    assert two.is_gone("one")


def test_one_leads_until_it_falls_silent_and_does_not_take_it_back(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, two = world.leadership("one"), world.leadership("two")
    assert one.beat()
    assert not two.beat()
    assert two.holder == "one"
    world.now = 9.0
    assert not two.beat()
    assert one.leads()
    world.now = 10.0
    assert not one.leads()  # it has not shown itself, so it must not act: the other may take over from now on
    assert two.beat()
    assert not one.beat()
    assert one.holder == "two"


def test_a_restart_under_the_same_name_leads_at_once_and_its_former_life_does_not(tmp_path: Path) -> None:
    world = World(tmp_path)
    before = world.leadership("one")
    assert before.beat()
    after = world.leadership("one")
    assert after.beat()
    assert not before.beat()
    assert after.beat()


def test_a_namesake_that_stands_by_takes_over_from_a_leader_that_died(tmp_path: Path) -> None:
    """Two on one host, named by it: the signs of the one that stands by must not pass for those of the other."""
    world = World(tmp_path)
    before, after = world.leadership("host"), world.leadership("host")
    assert before.beat()
    assert after.beat()
    for second in (3.0, 6.0, 9.0):
        world.now = second
        assert after.beat()
        assert not before.beat()
    world.now = 15.0  # "after" is dead
    assert not before.beat()
    world.now = 19.0
    assert before.beat()


def test_who_lets_go_is_followed_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, two = world.leadership("one"), world.leadership("two")
    assert one.beat()
    assert not two.beat()
    one.release()
    assert not one.leads()
    assert two.beat()
    two.release()
    one.release()  # of what it does not have: nothing happens
    assert one.beat()


def test_terms_do_not_pile_up(tmp_path: Path) -> None:
    world = World(tmp_path)
    for _ in range(20):
        assert world.leadership("one").beat()
    assert len(list((tmp_path / "leader").iterdir())) <= 9
