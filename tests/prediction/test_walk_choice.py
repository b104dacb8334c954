"""Which of several walks is kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import dao.prediction.plausibility
from dao.crystal import Crystal
from dao.prediction.walk_choice import AGREEMENT, WalkChooser, agreement, with_chooser
from dao.processes.config import SamplerSettings

CUBE = 4.0 * np.eye(3)


def salt(where: float, numbers: Sequence[int] = (11, 17)) -> Crystal:
    """Two atoms in a cube, the second at (x, x, x)."""
    return Crystal(list(numbers), [[0.0, 0.0, 0.0], [where] * 3], CUBE)


def test_agreement_counts_how_many_ended_alike() -> None:
    shifted = Crystal([11, 17], [[0.2, 0.1, 0.0], [0.7, 0.6, 0.5]], CUBE)  # the first again
    found = agreement([salt(0.5), salt(0.3), shifted])
    assert found[0] == pytest.approx(found[2])
    assert found[0] > 2.0
    assert 1.0 <= found[1] < 1.3


def test_the_most_plausible_is_kept_unless_others_agree_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[int] = []

    def log_odds(_: Any, crystals: Sequence[Crystal]) -> list[float]:
        """The further the second atom, the better."""
        judged.append(len(crystals))
        return [0.5 * AGREEMENT * float(one.frac_coords.max() > 0.4) for one in crystals]

    monkeypatch.setattr(dao.prediction.plausibility, "log_odds", log_odds)
    network: Any = None
    lists = [[salt(0.25), salt(0.5)], [salt(0.25), salt(0.25), salt(0.5)], [salt(0.5, (3, 9)), salt(0.3, (3, 9))]]
    assert WalkChooser(network)(lists) == [1, 0, 0]
    assert judged == [7]  # all at once
    assert WalkChooser(network)([]) == []


def test_a_flat_cell_agrees_with_nothing() -> None:
    flat = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], np.diag([4.0, 4.0, 1e-4]))
    assert agreement([flat, salt(0.5), salt(0.5)]).tolist() == pytest.approx([0.0, 2.0, 2.0])


def test_odds_that_are_no_number_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dao.prediction.plausibility, "log_odds", lambda *_: [float("nan"), -9.0])
    network: Any = None
    assert WalkChooser(network)([[salt(0.25), salt(0.5)]]) == [1]


def test_one_walk_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    one, three = SamplerSettings(walks=1), SamplerSettings(walks=3)
    assert with_chooser(one, "cpu") == (one, None)
    settings, chooser = with_chooser(three, "cpu")
    assert settings == three
    assert chooser is not None
    assert chooser.network.fingerprint in chooser.record
    monkeypatch.setattr("dao.prediction.plausibility.shipped_plausibility", lambda: None)
    assert with_chooser(three, "cpu") == (one, None)
