"""The circuit breaker of one owner, by a clock that the test moves."""

from __future__ import annotations

from services.retrieval.breaker import Breaker


def test_it_opens_after_time_outs_in_a_row_and_lets_one_probe_through_per_pause() -> None:
    now = [100.0]
    breaker = Breaker(3, 30.0, lambda: now[0])
    for late in (True, True, False, True, True):
        breaker.record(late)
        assert breaker.wait() == 0, "no three in a row"
    breaker.record(True)
    assert breaker.wait() == 30
    now[0] += 29
    assert breaker.wait() == 1
    now[0] += 1
    assert [breaker.wait() for _ in range(3)] == [0, 30, 30], "one probe"
    now[0] += 10
    breaker.record(True)
    assert breaker.wait() == 30, "a probe that is late begins another pause"
    now[0] += 30
    assert breaker.wait() == 0
    now[0] += 31
    assert breaker.wait() == 0, "a probe whose caller gave up is followed by another one"
    breaker.record(False)
    assert [breaker.wait() for _ in range(3)] == [0, 0, 0], "closed by any answer"
