"""Candidates relaxed by a potential of somebody else's, for which Lennard-Jones stands here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones
from toys import tiny_generator, tiny_predictor, toy, toy_crystals

from dao.crystal import Crystal, CrystalBatch
from dao.data.store import pack_crystals
from dao.errors import InputError
from dao.interop import foundation
from dao.interop.ase_potential import AsePotential
from dao.interop.foundation import FOUNDATIONS, Foundation
from dao.prediction.foundation_relax import Relaxing
from dao.prediction.prototype_build import build_table
from dao.prediction.ranking import Candidate, rank_by_recurrence
from dao.processes.config import SamplerSettings

Run = Callable[..., tuple[int, str, str]]


class Broken(Calculator):
    """Fails on every crystal."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 -- ASE's own declaration

    def calculate(self, *_: Any, **__: Any) -> None:
        raise ArithmeticError("no neighbours")


def lennard_jones(_: str = "cpu") -> Any:
    return LennardJones(sigma=2.5, epsilon=0.5, rc=6.0, smooth=True)  # type: ignore[no-untyped-call]


@pytest.fixture
def _toy_potential(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOUNDATIONS, "toy", Foundation("ase", "lj", lennard_jones))


def candidates() -> list[Candidate]:
    """Caesium chloride first, two rock salts that relax to the same, then zincblende, then what is not relaxed."""
    cells = [("cscl", 3.4), ("rocksalt", 5.2), ("zincblende", 6.1)]
    samples = [(1, i, toy(kind, ("Na", "Cl"), a)) for i, (kind, a) in enumerate(cells)]
    made = rank_by_recurrence("NaCl", 2, samples, total=8, source="generator")
    tilted = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.5, 0.5, 0.3]], 3.0 * np.diag([1.0, 1.0, 2.3]))
    made += rank_by_recurrence("NaCl", 2, [(1, 3, tilted)], total=8, source="generator")
    return [replace(one, rank=rank) for rank, one in enumerate(made, start=1)]


def test_energies_forces_and_stress_are_the_calculator_s() -> None:
    salt, cscl = toy("rocksalt", ("Na", "Cl"), 5.6), toy("fluorite", ("Sr", "Cl"), 7.0)
    made = AsePotential(lennard_jones()).energy_forces_stress(CrystalBatch.from_crystals([salt, cscl]))
    for i, crystal in enumerate((salt, cscl)):
        atoms: Any = crystal.to_atoms()
        atoms.calc = lennard_jones()
        assert float(made.energy[i]) == pytest.approx(atoms.get_potential_energy(), rel=1e-6)
        count = crystal.num_atoms
        np.testing.assert_allclose(made.forces[i, :count], atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(made.stress[i], atoms.get_stress(voigt=False), atol=1e-6)
        assert not made.forces[i, count:].any()


def test_what_the_calculator_fails_on_has_no_energy() -> None:
    collapsed = Crystal([11, 17], [[0.0, 0.0, 0.0], [0.0, 0.0, 1e-4]], 5.0 * np.eye(3))
    batch = CrystalBatch.from_crystals([collapsed, toy("rocksalt", ("Na", "Cl"), 5.6)])
    energy = AsePotential(lennard_jones()).energy_forces_stress(batch).energy
    assert torch.isnan(energy).tolist() == [True, False]


@pytest.mark.usefixtures("_toy_potential")
def test_the_first_are_relaxed_and_ranked_by_energy() -> None:
    before = candidates()
    after = Relaxing(potential="toy", top=3).load("cpu", None)(before)
    assert [one.rank for one in after] == [1, 2, 3, 4]
    energies = [one.energy for one in after]
    assert energies[:3] == sorted(energies[:3])  # type: ignore[type-var]
    assert energies[3] is None
    # what is not relaxed stays below, as it was
    assert after[3].crystal is before[3].crystal
    assert "energy" not in after[3].record()
    for one in after[:3]:
        same = next(other for other in before if other.sample_indices == one.sample_indices)
        assert one.space_group == same.space_group
        assert one.energy_by is not None
        assert one.energy_by.startswith("toy ")
        assert one.record()["energy"] == pytest.approx(one.energy, abs=1e-6)
        forces = AsePotential(lennard_jones()).energy_forces_stress(CrystalBatch.from_crystals([one.crystal]))
        assert float(forces.forces.abs().max()) < 0.05
        assert float(forces.energy[0]) / one.num_atoms == pytest.approx(one.energy, abs=1e-4)
    assert Relaxing(potential="toy").load("cpu", None)([]) == []


@pytest.mark.usefixtures("_toy_potential")
def test_what_becomes_the_same_crystal_is_one() -> None:
    first, second, *_ = candidates()
    # a stretched copy that the matcher tells apart only before it is relaxed
    stretched = Crystal(
        first.crystal.atomic_numbers, first.crystal.frac_coords, first.crystal.lattice @ np.diag([1.0, 1.0, 1.22])
    )
    copy = replace(
        first,
        rank=2,
        crystal=stretched,
        space_group="P4/mmm",
        space_group_number=123,
        source="prototype",
        prototype="KBr",
        prototype_distance=0.1,
        prototype_members=7,
        prototype_share=0.3,
    )
    after = Relaxing(potential="toy", top=3).load("cpu", None)([first, copy, replace(second, rank=3)])
    assert len(after) == 2
    joined = next(one for one in after if one.source == "both")
    assert (joined.count, joined.prototype) == (first.count + copy.count, "KBr")
    # what belongs to that prototype, whichever of the two is shown
    assert (joined.prototype_distance, joined.prototype_members, joined.prototype_share) == (0.1, 7, 0.3)


def test_a_potential_that_fails_leaves_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FOUNDATIONS, "toy", Foundation("ase", "none", lambda _: Broken()))  # type: ignore[no-untyped-call]
    before = candidates()
    after = Relaxing(potential="toy").load("cpu", None)(before)
    assert [one.record() for one in after] == [one.record() for one in before]


def test_by_the_predictor() -> None:
    predictor = tiny_predictor()
    after = Relaxing(potential="predictor", top=2).load("cpu", predictor)(candidates())
    assert sum(one.energy is not None for one in after) == 2
    for one in after[:2]:
        assert one.energy == pytest.approx(one.e_above_hull, abs=1e-3)
        assert one.energy_by == f"tiny ({predictor.fingerprint})"
    with pytest.raises(InputError, match="needs the weights of a predictor"):
        Relaxing(potential="predictor").load("cpu", None)


@pytest.mark.parametrize("arguments", [("lj",), ("mace",), ("toy", "--relax-top", "0")])
def test_what_cannot_relax_is_one_line_before_anything_is_sampled(
    run: Run, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(foundation, "version", missing)
    code, out, err = run("predict", "NaCl", "--out", "made", "--relax", *arguments)
    assert (code, out) == (2, "")
    expected = {"lj": "there are: chgnet", "mace": "pip install mace-torch", "toy": "--relax-top"}
    assert expected[arguments[0]] in err
    assert not (tmp_path / "made").exists()


@pytest.mark.usefixtures("_toy_potential")
def test_on_the_command_line(run: Run, tmp_path: Path) -> None:
    tiny_generator(sampler=SamplerSettings(steps=3)).save(tmp_path / "weights")
    build_table(pack_crystals(toy_crystals()), {"source": "toys"}).save(tmp_path / "toys.safetensors")
    options = ("--weights", "weights", "--table", "toys.safetensors", "--samples", "2", "--rank", "recurrence")
    code, out, err = run("predict", "KBr", *options, "--relax", "toy", "--relax-top", "2", "--out", "made")
    assert code == 0, err
    assert "energy by toy" in out.replace("\n", " ")
    assert "K(1+) Br(1-): charge balanced" in err
    header = (tmp_path / "made" / "KBr" / "candidates.csv").read_text(encoding="utf-8").splitlines()[0].split(",")
    assert {"energy", "energy_by", "novelty", "nearest_known"} <= set(header)
