from __future__ import annotations

import pytest

from dao.stages import START, in_words, measured, so_far, stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("dao.stages.time.perf_counter", lambda: now[0])
    return now


def test_an_inner_stage_does_not_count_for_the_outer(clock: list[float]) -> None:
    with measured() as found:
        clock[0] += 1.0  # in no stage
        with stage("outer"):
            clock[0] += 2.0
            with stage("inner"):
                clock[0] += 4.0
            clock[0] += 8.0
        with stage("inner"):
            clock[0] += 16.0
        assert so_far() == {START: 0.0, "outer": 10.0, "inner": 20.0}
    assert found.total == 31.0
    assert in_words(found.seconds) == "outer 10.0 s, inner 20.0 s"


def test_an_error_ends_its_stage(clock: list[float]) -> None:
    def broken() -> None:
        with stage("one"):
            clock[0] += 1.0
            raise ZeroDivisionError

    with measured() as found:
        with pytest.raises(ZeroDivisionError):
            broken()
        with stage("two"):
            clock[0] += 2.0
    assert found.seconds == {START: 0.0, "one": 1.0, "two": 2.0}


def test_nobody_collects() -> None:
    with stage("one"):
        assert so_far() == {}
