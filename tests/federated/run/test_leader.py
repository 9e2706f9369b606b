"""Leader election: one leader at a time, by terms on the store and the observer's own clock."""

from __future__ import annotations

from pathlib import Path

from eoforge.federated.run.leader import Heartbeat, Leadership
from eoforge.storage.objects import ObjectStore


class Coordinators:
    """Coordinators on one store, with a clock that tests move."""

    def __init__(self, folder: Path) -> None:
        self.store, self.now = ObjectStore(str(folder)), 0.0

    def leadership(self, name: str) -> Leadership:
        return Leadership(self.store, name, 10.0, lambda: self.now)


def test_only_silence_by_the_watchers_own_clock_makes_a_coordinator_gone(tmp_path: Path) -> None:
    coordinators = Coordinators(tmp_path)
    one = Heartbeat(coordinators.store, "one", 10.0)
    two = Heartbeat(coordinators.store, "two", 10.0, clock=lambda: coordinators.now)
    one.send()
    assert not two.has_expired("one")
    coordinators.now = 9.0
    assert not two.has_expired("one")
    one.send()
    coordinators.now = 18.0
    assert not two.has_expired("one")
    coordinators.now = 29.0
    assert two.has_expired("one")


def test_one_leads_until_it_falls_silent_and_does_not_take_it_back(tmp_path: Path) -> None:
    coordinators = Coordinators(tmp_path)
    one, two = coordinators.leadership("one"), coordinators.leadership("two")
    assert one.renew()
    assert not two.renew()
    assert two.holder == "one"
    coordinators.now = 9.0
    assert not two.renew()
    assert one.is_valid()
    coordinators.now = 10.0
    assert not one.is_valid()  # it has not shown itself, so it must not act: the other may take over from now on
    assert two.renew()
    assert not one.renew()
    assert one.holder == "two"


def test_a_restart_under_the_same_name_leads_at_once_and_its_former_life_does_not(tmp_path: Path) -> None:
    coordinators = Coordinators(tmp_path)
    before = coordinators.leadership("one")
    assert before.renew()
    after = coordinators.leadership("one")
    assert after.renew()
    assert not before.renew()
    assert after.renew()


def test_a_namesake_that_stands_by_takes_over_from_a_leader_that_died(tmp_path: Path) -> None:
    """Two on one host, named by it: the signs of the one that stands by must not pass for those of the other."""
    coordinators = Coordinators(tmp_path)
    before, after = coordinators.leadership("host"), coordinators.leadership("host")
    assert before.renew()
    assert after.renew()
    for second in (3.0, 6.0, 9.0):
        coordinators.now = second
        assert after.renew()
        assert not before.renew()
    coordinators.now = 15.0  # "after" is dead
    assert not before.renew()
    coordinators.now = 19.0
    assert before.renew()


def test_who_lets_go_is_followed_at_once(tmp_path: Path) -> None:
    coordinators = Coordinators(tmp_path)
    one, two = coordinators.leadership("one"), coordinators.leadership("two")
    assert one.renew()
    assert not two.renew()
    one.release()
    assert not one.is_valid()
    assert two.renew()
    two.release()
    one.release()  # of what it does not have: nothing happens
    assert one.renew()


def test_terms_do_not_pile_up(tmp_path: Path) -> None:
    coordinators = Coordinators(tmp_path)
    for _ in range(20):
        assert coordinators.leadership("one").renew()
    assert len(list((tmp_path / "leader").iterdir())) <= 9
