"""Ranked candidates of targets, as ``dao predict`` would rank them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from toys import toy, toy_crystals

from dao.data.store import pack_crystals
from dao.evaluation.candidates import Candidates
from dao.evaluation.csp import Predicted
from dao.evaluation.targets import Targets
from dao.prediction.judging import Judge, Judging
from dao.prediction.prototype_build import build_table
from dao.prediction.ranking import Candidate
from dao.prediction.sources import Sources

ROCKSALT, CSCL = toy("rocksalt", ("Na", "Cl"), 5.64, "rocksalt"), toy("cscl", ("Na", "Cl"), 3.5, "cscl")


def test_shares_are_of_all_that_the_generator_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples that are no crystals count, as in ``dao predict``, and others keep their numbers."""
    path = tmp_path / "toys.safetensors"
    build_table(pack_crystals(toy_crystals()), {"source": "toys"}).save(path)
    seen: list[Sequence[Candidate]] = []

    def rank(_: Judge, candidates: Sequence[Candidate]) -> list[Candidate]:
        seen.append(candidates)
        return list(candidates)

    monkeypatch.setattr(Judge, "rank", rank)
    targets = Targets("toys", "", (ROCKSALT, CSCL), 2, "", {})
    generated = Predicted(((None, ROCKSALT, None, ROCKSALT, CSCL), (None,) * 5), {"seed": 0})
    making = Candidates(
        targets, generated, Sources(table=path), Judging(rank="recurrence"), count=5, path=tmp_path / "c.jsonl"
    )
    making.run(lambda _: None, workers=1)
    assert [{one.samples for one in candidates} for candidates in seen] == [{5}, {5}]
    found = {one.space_group: (one.count, one.sample_indices) for one in seen[0] if one.count}
    assert found == {"Fm-3m": (2, ((1, 1), (1, 3))), "Pm-3m": (1, ((1, 4),))}
    assert not any(one.count for one in seen[1])
