"""Training of a flow within space groups: crystals shown with all of their symmetry, with part of it, and without."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from run_folders import Fit, recipe

from dao.geometry.subgroups import small_subgroups
from dao.models import Generator, read_config
from dao.recipes.schema import check_recipe
from dao.training.objectives import generator_objective
from dao.training.tasks import SYMMETRIZED

SYMMETRIC: dict[str, Any] = {
    "network": {"gram": "normalized", "space_groups": True, "wyckoff_positions": True},
    "process": {"kind": "symmetric_flow", "lattice": "conventional_log_metric", "assignment": "none"},
}


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Space groups that training is shown crystals in."""
    seen: list[int] = []

    def watched(model: Any, batch: Any, noise: Any) -> Any:
        seen.extend(batch.labels["space_group"].tolist())
        return generator_objective(model, batch, noise)

    monkeypatch.setattr("dao.training.tasks.generator_objective", watched)
    return seen


def test_a_share_of_the_crystals_is_shown_without_symmetry(fit: Fit, shown: list[int]) -> None:
    """And counts as the crystal that it is: epochs and record are those of the training set."""
    records, seen = [], dict[bool, list[int]]()
    for share in (0.0, 0.5):
        shown.clear()
        run = fit(f"share-{share}", **SYMMETRIC, data={"free_share": share})
        records.append(read_config(run / "last").training)
        seen[bool(share)] = shown.copy()
    assert records[0]["data"] == records[1]["data"]
    assert records[0]["epochs"] == records[1]["epochs"]
    usual, freed = ([group == 1 for group in seen[key]] for key in (False, True))
    before = sum(usual) / len(usual)
    assert before < 0.2
    expected = before + 0.5 * (1.0 - before)
    assert sum(freed) / len(freed) == pytest.approx(expected, abs=0.08)


def test_a_share_of_the_crystals_is_shown_in_subgroups(
    fit: Fit, shown: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawn once and kept in the folder; epochs and record are those of the training set."""
    whole = fit("whole", **SYMMETRIC)
    shown.clear()
    notes: list[str] = []
    run = fit("subgroups", **SYMMETRIC, data={"free_share": 0.1, "subgroup_share": 0.9}, note=notes.append)
    small = {kind for group in range(1, 231) for kind in small_subgroups(group)} | {1, 2}
    assert set(shown) <= small
    assert len(set(shown)) > 3
    assert f"{run}: describes crystals in 3 subgroups each (4 ms a description), kept in this folder" in notes
    kept = sorted(path.name for path in run.glob("*.safetensors"))
    assert kept == ["subgroups-0.safetensors", "subgroups-1.safetensors", "subgroups-2.safetensors", SYMMETRIZED]
    one, other = (Generator.load(folder / "last").config for folder in (whole, run))
    for name in ("data", "epochs"):
        assert one.training[name] == other.training[name]
    assert one.cells == other.cells

    monkeypatch.setattr("dao.data.symmetrized.in_subgroup", None)  # read from the files, not made again
    changes = {**SYMMETRIC, "data": {"free_share": 0.1, "subgroup_share": 0.9}, "crystals": 2000, "resume": True}
    (run / "last").rename(run / "before")
    fit("subgroups", **changes)


def test_only_a_symmetric_process_has_crystals_without_symmetry() -> None:
    for name in ("free_share", "subgroup_share"):
        with pytest.raises(ValidationError, match=f"{name}: only process symmetric_flow keeps a symmetry"):
            recipe(data={name: 0.1})
    with pytest.raises(ValidationError, match="together more than all crystals"):
        recipe(**SYMMETRIC, data={"free_share": 0.6, "subgroup_share": 0.5})
    recipe(**SYMMETRIC, data={"free_share": 0.21, "subgroup_share": 0.79})  # all, to rounding
    with pytest.raises(ValidationError, match="there is no choice that a symmetry prior could learn"):
        check_recipe({"task": "symmetry", "name": "tiny", "epochs": 1, "data": {"free_share": 0.1}})
