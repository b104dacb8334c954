"""A predictor's two parts in ``dao predict``: energies that rank, and guidance; without it everything is as before."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ase.io
import pytest
from toys import tiny_generator, tiny_predictor, toy

import dao
from dao import weights
from dao.cli import main
from dao.errors import InputError
from dao.models import Predictor
from dao.prediction.energies import predict_energies
from dao.prediction.judging import Judge, Judging
from dao.prediction.ranking import COUNT_WEIGHT, Candidate, rank_by_energy, rank_by_recurrence, with_energies
from dao.processes.config import SamplerSettings

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weights")
    tiny_generator(sampler=SamplerSettings(steps=3)).save(made / "generator")
    tiny_predictor().save(made / "predictor")
    other = tiny_predictor(seed=1)
    other.config = replace(other.config, label="bulk_modulus")
    other.save(made / "modulus")
    return made


@pytest.fixture(autouse=True)
def _nothing_shipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    monkeypatch.setattr(weights, "_SHELF", tmp_path / "shelf")


def three() -> list[Candidate]:
    cells = [("rocksalt", 5.6)] * 3 + [("cscl", 3.4)] * 2 + [("zincblende", 6.1)]
    samples = [(1, i, toy(kind, ("Na", "Cl"), a)) for i, (kind, a) in enumerate(cells)]
    return rank_by_recurrence("NaCl", 2, samples, total=6, source="generator")


@pytest.mark.parametrize(
    ("energies", "counts"),
    [
        ([0.3, 0.1, 0.2], [2, 1, 3]),
        ([0.1, 0.1, 0.1], [3, 2, 1]),
        ([0.10001, 0.10002, 0.1], [3, 2, 1]),
        ([math.nan, 0.5, math.inf], [2, 3, 1]),
        ([-0.2, -math.inf, -0.3], [1, 3, 2]),
    ],
)
def test_lowest_energy_first_ties_and_unknown_by_recurrence(energies: list[float], counts: list[int]) -> None:
    found = rank_by_energy(with_energies(three(), energies))
    assert [one.rank for one in found] == [1, 2, 3]
    assert [one.count for one in found] == counts
    for one in found:
        given = energies[3 - one.count]
        assert one.record()["e_above_hull"] == (round(given, 6) if math.isfinite(given) else None)
    json.dumps([one.record() for one in found], allow_nan=False)


def test_a_crystal_found_more_often_may_lie_higher() -> None:
    """E - T log(count): by 0.1 eV/atom times log(3 / 1) at most."""
    for gap, first in ((0.10, 3), (0.12, 1)):
        found = rank_by_energy(with_energies(three(), [gap, 1.0, 0.0]), 0.1)
        assert found[0].count == first
    known = Judge(ranker=tiny_predictor(), order="both").rank(three())
    weighed = [(one.e_above_hull or 0.0) - COUNT_WEIGHT * math.log(one.count) for one in known]
    assert weighed == pytest.approx(sorted(weighed), abs=1e-4)


def test_an_expected_error_is_shown_beside_the_energy() -> None:
    (first, *_) = with_energies(three(), [0.1, 0.2, math.nan], [0.05, None, 0.1])
    assert first.record()["e_above_hull_error"] == 0.05
    ranked = Judge(ranker=tiny_predictor(errors=True), order="energy").rank(three())
    assert all(one.e_above_hull_error is not None and one.e_above_hull_error > 0 for one in ranked)
    assert "e_above_hull_error" not in three()[0].record()


def test_without_a_predictor_nothing_changes() -> None:
    found = three()
    assert Judge().rank(found) == found
    assert Judging().load("cpu") == Judge()
    assert "e_above_hull" not in found[0].record()


def test_python(folder: Path) -> None:
    plain = dao.predict("NaCl", 6, sources="generator", weights=folder / "generator")
    found = dao.predict(
        "NaCl", 6, sources="generator", weights=folder / "generator", predictor=folder / "predictor", rank="energy"
    )
    model = Predictor.load(folder / "predictor")
    known = predict_energies(model, [one.crystal for one in found])
    assert [one.e_above_hull for one in found] == pytest.approx(known, abs=1e-6)
    assert [round(energy, 4) for energy in known] == sorted(round(energy, 4) for energy in known)
    assert sorted(one.sample_indices for one in found) == sorted(one.sample_indices for one in plain)
    by_count = dao.predict(
        "NaCl",
        6,
        sources="generator",
        weights=folder / "generator",
        predictor=str(folder / "predictor"),
        rank="recurrence",
    )
    assert [one.sample_indices for one in by_count] == [one.sample_indices for one in plain]
    assert all(one.e_above_hull is not None for one in by_count)
    pulled = dao.predict(
        "NaCl", 6, sources="generator", weights=folder / "generator", predictor=folder / "predictor", guidance=50.0
    )
    volumes = [sorted(one.volume_per_atom for one in some) for some in (found, pulled)]
    assert volumes[0] != volumes[1]


def test_the_shipped_predictor_ranks_by_itself(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_SHELF", folder)
    judge = Judging().load("cpu")
    assert judge.order == "both"
    assert judge.guidance is None
    assert judge.note().startswith("recurrence and energy above the hull of tiny (")


def test_another_property_guides_but_does_not_rank(folder: Path) -> None:
    judge = Judging(predictor=folder / "modulus", guidance=1.0, target=100.0).load("cpu")
    assert judge.guidance is not None
    assert (judge.ranker, judge.order, judge.note()) == (None, "recurrence", "recurrence")
    with pytest.raises(InputError, match="predicts bulk_modulus, and ranking by energy needs e_above_hull"):
        Judging(predictor=folder / "modulus", rank="energy").load("cpu")


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        given = ["predict", "NaCl", "--samples", "4", "--weights", "@/generator", "--device", "cpu", "--quiet"]
        given += ["--sources", "generator"]
        code = main([argument.replace("@", str(folder)) for argument in (*given, *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_table_and_files(run: Run, tmp_path: Path) -> None:
    code, out, err = run("--predictor", "@/predictor", "--guidance", "2")
    assert (code, err) == (0, "")
    assert "E above hull (eV/atom)" in out.splitlines()[0]
    results = tmp_path / "predictions" / "NaCl"
    records = json.loads((results / "candidates.json").read_text())
    energies = [record["e_above_hull"] for record in records]
    assert energies
    assert all(f"{energy:.4f}" in line for energy, line in zip(energies, out.splitlines()[2:], strict=True))
    with (results / "candidates.csv").open() as stream:
        assert [float(row["e_above_hull"]) for row in csv.DictReader(stream)] == energies
    frames = ase.io.read(results / "candidates.extxyz", index=":")
    assert [frame.info["e_above_hull"] for frame in frames] == pytest.approx(energies)
    made_by = json.loads((results / "samples.jsonl").read_text().splitlines()[0])["made_by"]
    assert made_by["guidance"]["strength"] == 2.0
    # the ranking may change on the same samples, the guidance may not
    before = (results / "samples.jsonl").read_bytes()
    assert run("--predictor", "@/predictor", "--guidance", "2", "--rank", "recurrence")[0] == 0
    assert (results / "samples.jsonl").read_bytes() == before
    for other in (
        ["--predictor", "@/predictor", "--guidance", "1"],
        ["--predictor", "@/predictor", "--guidance", "2", "--target", "0.1"],
        ["--predictor", "@/modulus", "--guidance", "2"],
        [],
    ):
        code, _, err = run(*other)
        assert code == 2
        assert "holds samples made with another guidance: choose another --out" in err
        assert len(err.splitlines()) == 1


def test_without_a_predictor_files_are_as_before(run: Run, tmp_path: Path) -> None:
    code, out, _ = run()
    assert code == 0
    assert "hull" not in out
    text = (tmp_path / "predictions" / "NaCl" / "candidates.json").read_text()
    assert "e_above_hull" not in text
    assert "guidance" not in (tmp_path / "predictions" / "NaCl" / "samples.jsonl").read_text()
    # guided ones are refused in turn
    code, _, err = run("--predictor", "@/predictor", "--guidance", "2")
    assert code == 2
    assert "made with another guidance" in err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--guidance", "1"], "guidance needs the weights of a predictor, and none are shipped: give --predictor"),
        (["--rank", "energy"], "ranking by energy needs the weights of a predictor, and none are shipped"),
        (["--target", "1"], "a guidance target needs a positive guidance strength"),
        (["--predictor", "@/predictor", "--guidance", "-1", "--target", "1"], "needs a positive guidance strength"),
        (["--predictor", "@/predictor", "--guidance", "nan"], "--guidance and --target must be finite numbers"),
        (["--predictor", "@/predictor", "--guidance", "1", "--target", "inf"], "must be finite numbers"),
        (["--predictor", "@/generator", "--guidance", "1"], "holds a generator, and a predictor is needed"),
        (["--predictor", "nowhere", "--guidance", "1"], "neither shipped"),
        (["--predictor", "@/modulus", "--rank", "energy"], "ranking by energy needs e_above_hull"),
    ],
)
def test_one_line_and_nothing_written(run: Run, tmp_path: Path, options: list[str], complaint: str) -> None:
    code, out, err = run(*options)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "predictions").exists()
