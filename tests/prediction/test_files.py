from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from pymatgen.core import Structure
from pymatgen.core.structure_matcher import StructureMatcher
from toys import toy

from dao.crystal import Crystal
from dao.errors import InputError
from dao.prediction.files import write_candidates, write_failures
from dao.prediction.ranking import Candidate, rank_by_recurrence


def candidates(*crystals: Crystal) -> list[Candidate]:
    samples = [(1, i, crystal) for i, crystal in enumerate(crystals)]
    return rank_by_recurrence("NaCl", 2, samples, total=len(samples), source="generator")


PLACES = [[0.0, 0.0, 0.0], [0.5, 0.45, 0.1], [0.2, 0.6, 0.7], [0.8, 0.3, 0.55]]
ODD = Crystal([11, 17, 11, 17], PLACES, np.diag([4.1, 5.2, 6.3]) + 0.2)
THREE = candidates(toy("rocksalt", ("Na", "Cl"), 5.64), toy("cscl", ("Na", "Cl"), 3.5), ODD)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(one: Structure, other: Structure) -> bool:
    exact = StructureMatcher(ltol=1e-3, stol=1e-3, angle_tol=0.1, scale=False)
    return bool(exact.fit(one, other))


def test_every_file_holds_the_same_structures(tmp_path: Path) -> None:
    write_candidates(tmp_path / "NaCl", THREE)
    folder = tmp_path / "NaCl"
    cifs = ["001_Fm-3m.cif", "002_Pm-3m.cif", "003_P1.cif"]
    assert names(folder) == [*cifs, "candidates.csv", "candidates.extxyz", "candidates.json"]
    records = json.loads((folder / "candidates.json").read_text())
    frames = ase.io.read(folder / "candidates.extxyz", ":")
    with (folder / "candidates.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    for candidate, name, record, frame, row in zip(THREE, cifs, records, frames, rows, strict=True):
        assert same(Structure.from_file(folder / name), candidate.structure)
        assert same(Structure.from_dict(record["structure"]), candidate.structure)
        assert same(Crystal.from_atoms(frame).to_structure(), candidate.structure)
        plain = {key: value for key, value in record.items() if key != "structure"}
        assert plain == {**candidate.record(), "cif": name}
        assert row == {key: "" if value is None else str(value) for key, value in plain.items()}
        assert frame.info["space_group"] == candidate.space_group
        assert frame.info["rank"] == candidate.rank
    assert "_symmetry_Int_Tables_number   225" in (folder / cifs[0]).read_text()
    # the conventional cell, as crystallographers expect of a symmetric CIF
    assert "_cell_length_a   5.64" in (folder / cifs[0]).read_text()


def test_files_of_a_longer_list_are_removed(tmp_path: Path) -> None:
    write_candidates(tmp_path, THREE)
    (tmp_path / "notes.cif").write_text("mine")
    write_candidates(tmp_path, THREE[1:2])
    assert names(tmp_path) == ["002_Pm-3m.cif", "candidates.csv", "candidates.extxyz", "candidates.json", "notes.cif"]
    write_candidates(tmp_path, [])
    assert json.loads((tmp_path / "candidates.json").read_text()) == []
    assert names(tmp_path) == ["candidates.csv", "candidates.extxyz", "candidates.json", "notes.cif"]


def test_symbols_with_a_slash(tmp_path: Path) -> None:
    rutile = [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.3, 0.3, 0], [0.7, 0.7, 0], [0.2, 0.8, 0.5], [0.8, 0.2, 0.5]]
    wanted = candidates(Crystal([22, 22, 8, 8, 8, 8], rutile, np.diag([4.6, 4.6, 2.96])))
    assert wanted[0].space_group == "P4_2/mnm"
    write_candidates(tmp_path, wanted)
    assert (tmp_path / "001_P4_2-mnm.cif").is_file()


@pytest.mark.parametrize("numbers", [[54, 9], [2, 10], [61, 94], [1, 1]])
def test_unusual_elements_are_written_without_a_warning(tmp_path: Path, numbers: list[int]) -> None:
    # helium and neon have no electronegativity, promethium and plutonium few tabulated properties
    write_candidates(tmp_path, candidates(Crystal(numbers, [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]], 4 * np.eye(3))))
    assert (tmp_path / "candidates.json").is_file()


def test_a_structure_whose_symmetry_is_beyond_pymatgen_is_written_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymatgen.symmetry import analyzer

    def fail(*_: Any, **__: Any) -> None:
        raise analyzer.SymmetryUndeterminedError

    monkeypatch.setattr(analyzer.SpacegroupAnalyzer, "__init__", fail)
    write_candidates(tmp_path, THREE[:1])
    assert same(Structure.from_file(tmp_path / "001_Fm-3m.cif"), THREE[0].structure)


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    inside = tmp_path / "file" / "NaCl"
    with pytest.raises(InputError, match="cannot be written"):
        write_candidates(inside, THREE)
    for failures in ([], [{"formula": "NaCl"}]):
        with pytest.raises(InputError, match="cannot be written"):
            write_failures(inside, failures)


def test_files_of_one_choice_replace_those_of_another(tmp_path: Path) -> None:
    records = write_candidates(tmp_path, THREE, ("poscar",))
    posters = ["POSCAR-001_Fm-3m", "POSCAR-002_Pm-3m", "POSCAR-003_P1"]
    assert names(tmp_path) == [record["poscar"] for record in records] == posters
    for candidate, name in zip(THREE, posters, strict=True):
        # by its name alone, as VESTA does it
        read = ase.io.read(tmp_path / name)
        assert not isinstance(read, list)
        assert same(Crystal.from_atoms(read).to_structure(), candidate.structure)
        assert (tmp_path / name).read_text().startswith(f"NaCl {candidate.space_group} (")
        assert Structure.from_file(tmp_path / name).num_sites == candidate.num_atoms
    assert "cif" not in write_candidates(tmp_path, THREE, ("csv", "json"))[0]
    assert names(tmp_path) == ["candidates.csv", "candidates.json"]
    write_candidates(tmp_path, THREE[:1], ("cif",))
    assert names(tmp_path) == ["001_Fm-3m.cif"]


def test_failures_are_written_and_removed(tmp_path: Path) -> None:
    write_failures(tmp_path / "new", [{"formula": "NaCl", "reason": "bad luck"}])
    assert json.loads((tmp_path / "new" / "failures.json").read_text()) == [{"formula": "NaCl", "reason": "bad luck"}]
    write_failures(tmp_path / "new", [])
    assert names(tmp_path / "new") == []
    write_failures(tmp_path / "nowhere", [])
