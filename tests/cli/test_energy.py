from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
import torch
from pymatgen.core import Lattice, Structure
from toys import DISORDERED, listing, tiny_generator, tiny_predictor, toy_crystals

from dao.cli import main
from dao.crystal import Crystal, CrystalBatch
from dao.data.sources import read_crystals
from dao.jsonl import JsonLines
from dao.model_config import TrustLimits
from dao.models import Predictor

CRYSTALS = toy_crystals()[:4]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("structures")
    model = tiny_predictor()
    elements = tuple(sorted({int(z) for crystal in CRYSTALS[1:] for z in crystal.atomic_numbers}))
    model.config = replace(model.config, trust=TrustLimits(elements=elements, max_atoms=20, volume_ratio=(0.1, 9.0)))
    model.save(made / "weights")
    tiny_generator().save(made / "generator")
    ase.io.write(made / "some.extxyz", [crystal.to_atoms() for crystal in CRYSTALS[1:]])
    CRYSTALS[0].to_structure().to(str(made / "one.cif"))
    (made / "bad.cif").write_text(DISORDERED)
    return made


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in an empty folder; ``@`` stands for the folder of structures."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, weights: str = "@/weights") -> tuple[int, str, str]:
        given = [*arguments, "--weights", weights, "--device", "cpu", "--quiet"]
        code = main([argument.replace("@", str(folder)) for argument in given])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def energies_of(crystals: list[Crystal], folder: Path) -> list[float]:
    with torch.no_grad():
        return Predictor.load(folder / "weights").energy(CrystalBatch.from_crystals(crystals)).tolist()


def expected(folder: Path) -> list[float]:
    return energies_of(CRYSTALS, folder)


def test_energies_of_files(run: Run, folder: Path) -> None:
    code, out, err = run("energy", "@/one.cif", "@/some.extxyz", "--format", "json")
    assert (code, err) == (0, "")
    records = json.loads(out)
    assert [record["e_above_hull"] for record in records] == pytest.approx(expected(folder), abs=2e-5)
    assert [record["formula"] for record in records] == [crystal.reduced_formula for crystal in CRYSTALS]
    assert [Path(record["file"]).name for record in records] == ["one.cif", *["some.extxyz"] * 3]
    assert [bool(record["doubts"]) for record in records] == [True, False, False, False]
    assert records[0]["doubts"].startswith("no ")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("verb", ["energy", "relax"])
def test_the_cell_that_a_crystal_is_given_in_does_not_matter(run: Run, verb: str) -> None:
    tetragonal = Lattice.tetragonal(4.65, 2.97)
    rutile = Structure.from_spacegroup("P4_2/mnm", tetragonal, ["Ti", "O"], [[0] * 3, [0.3, 0.3, 0]])
    rocksalt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0] * 3, [0.5] * 3])
    for name, structure in (("rutile", rutile), ("rocksalt", rocksalt)):
        for i, matrix in enumerate(([1, 1, 1], [2, 1, 1], [[1, 1, 0], [0, 1, 0], [0, 0, 1]])):
            structure.make_supercell(matrix, in_place=False).to(f"{name}-{i}.cif")
    files = [f"{name}-{i}.cif" for name in ("rutile", "rocksalt") for i in range(3)]
    code, out, _ = run(verb, *files, "--format", "json", *(["--steps", "1"] if verb == "relax" else []))
    records = json.loads(out)
    assert code == 0
    values = [record["before" if verb == "relax" else "e_above_hull"] for record in records]
    for three in (values[:3], values[3:]):
        assert three == pytest.approx([three[0]] * 3, abs=1e-4)
    if verb == "relax":
        assert [record["num_atoms"] for record in records] == [6] * 3 + [2] * 3


def test_tables_and_csv(run: Run, folder: Path) -> None:
    code, out, _ = run("energy", "@/some.extxyz", "--format", "csv", "--out", "made", "--batch-size", "1")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert [float(row["e_above_hull"]) for row in rows] == pytest.approx(expected(folder)[1:], abs=2e-5)
    assert {path.name for path in Path("made").iterdir()} == {"energies.csv", "energies.json"}
    assert Path("made/energies.csv").read_text() == out
    code, out, _ = run("energy", "@/some.extxyz")
    assert code == 0
    assert "E above hull (eV/atom)" in out.splitlines()[0]
    assert len(out.splitlines()) == 5


@pytest.mark.parametrize("verb", ["energy", "relax"])
def test_what_is_partly_bad_is_partly_done(run: Run, verb: str) -> None:
    code, out, err = run(verb, "@/bad.cif", "@/one.cif", "--out", "made", "--format", "json")
    assert code == 3
    assert len(json.loads(out)) == 1
    assert len(err.splitlines()) == 1
    (failure,) = json.loads(Path("made/failures.json").read_text())
    assert "bad.cif" in failure["file"]
    # mended: the file of failures goes
    code, _, _ = run(verb, "@/one.cif", "--out", "other" if verb == "relax" else "made")
    assert code == 0
    assert not Path("other/failures.json" if verb == "relax" else "made/failures.json").exists()


@pytest.mark.parametrize("verb", ["energy", "relax"])
@pytest.mark.parametrize(
    ("arguments", "weights", "complaint"),
    [
        (["@/bad.cif"], "@/weights", "nothing to compute: "),
        (["nowhere.cif"], "@/weights", "nowhere.cif: no such file or folder"),
        ([f"{'a' * 300}.cif"], "@/weights", ".cif: File name too long"),
        (["@/one.cif"], "@/generator", "holds a generator, and a predictor is needed"),
        (["@/one.cif"], "nothing", "weights 'nothing': neither shipped"),
        (["@/one.cif", "--out", "@/one.cif"], "@/weights", "is not a folder"),
    ],
)
def test_bad_input_is_one_line(run: Run, verb: str, arguments: list[str], weights: str, complaint: str) -> None:
    code, out, err = run(verb, *arguments, weights=weights)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert complaint in err
    assert list(Path().iterdir()) == []


def test_relaxed_structures_are_written(run: Run, folder: Path) -> None:
    arguments = ("--out", "made", "--format", "json", "--steps", "4", "--force-tolerance", "1e-6")
    code, out, err = run("relax", "@/one.cif", "@/some.extxyz", *arguments)
    assert (code, err) == (0, "")
    records = json.loads(out)
    assert all(record["e_above_hull"] <= record["before"] for record in records)
    assert any(record["e_above_hull"] < record["before"] for record in records)
    assert json.loads(Path("made/relaxed.json").read_text()) == records
    frames = ase.io.read("made/relaxed.extxyz", ":")
    assert [atoms.info["e_above_hull"] for atoms in frames] == pytest.approx([r["e_above_hull"] for r in records])
    for record, atoms in zip(records, frames, strict=True):
        (written,) = read_crystals(Path("made") / record["cif"])
        assert written.volume == pytest.approx(atoms.get_volume(), rel=1e-4)
    # of the cells as they are written, which need not be Niggli cells any more
    energies = energies_of([Crystal.from_atoms(atoms) for atoms in frames], folder)
    assert energies == pytest.approx([record["e_above_hull"] for record in records], abs=1e-5)


class KilledError(BaseException):
    pass


def test_an_interrupted_relaxation_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("relax", "@/one.cif", "@/some.extxyz", "--batch-size", "1")
    assert run(*arguments, "--out", "whole")[0] == 0
    original = JsonLines.append
    calls: list[int] = []

    def append(self: JsonLines, lines: object) -> None:
        if len(calls) == 2:
            raise KilledError
        calls.append(1)
        original(self, lines)  # type: ignore[arg-type]

    monkeypatch.setattr(JsonLines, "append", append)
    with pytest.raises(KilledError):
        run(*arguments, "--out", "broken")
    monkeypatch.setattr(JsonLines, "append", original)
    assert {path.name for path in Path("broken").iterdir()} == {"relaxed.jsonl"}
    assert run(*arguments, "--out", "broken")[0] == 0
    whole, broken = ({Path(k).name: v for k, v in listing([Path(name)]).items()} for name in ("whole", "broken"))
    assert whole == broken
    # other structures, or settings, do not mix with what is there
    code, _, err = run("relax", "@/one.cif", "--out", "broken")
    assert code == 2
    assert "made with another structures" in err
    code, _, err = run(*arguments, "--out", "broken", "--steps", "9")
    assert code == 2
    assert "made with another settings" in err
