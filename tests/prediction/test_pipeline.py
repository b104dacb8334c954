from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Structure
from toys import listing, tiny_generator

import dao
import dao.sampling
from dao.crystal import Crystal
from dao.errors import InputError
from dao.prediction import pipeline
from dao.prediction.composition import Composition, parse_formula
from dao.prediction.folders import PredictionRun, predict_to_folder
from dao.prediction.pipeline import allocate, predict
from dao.processes.config import SamplerSettings
from dao.sampling import sample

NACL, MGO = parse_formula("NaCl"), parse_formula("MgO")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights") / "tiny"
    tiny_generator(sampler=SamplerSettings(steps=3)).save(folder)
    return folder


Units = st.lists(st.integers(1, 8), min_size=1, max_size=4, unique=True).map(tuple)
Counts = st.dictionaries(st.integers(1, 8).map(str), st.integers(0, 10_000))


@given(samples=st.integers(1, 60), units=Units, counts=Counts)
def test_allocation(samples: int, units: tuple[int, ...], counts: dict[str, int]) -> None:
    shares = allocate(samples, units, 5, {"5": counts, "2": {"1": 99}})
    assert sum(shares.values()) == samples
    assert set(shares) <= set(units)
    assert all(count > 0 for count in shares.values())
    if samples >= len(units):
        assert set(shares) == set(units)
    # more samples take nothing away: a longer run extends a shorter one
    more = allocate(samples + 1, units, 5, {"5": counts})
    assert all(more[z] >= count for z, count in shares.items())
    # the likelier a cell, the more samples it has
    for z in units:
        for other in units:
            if counts.get(str(z), 0) > counts.get(str(other), 0):
                assert shares.get(z, 0) >= shares.get(other, 0)


def test_allocation_follows_the_training_set() -> None:
    assert allocate(20, (1, 2, 3, 4), 5, {"5": {"1": 699, "2": 199, "4": 99}}) == {1: 13, 2: 4, 3: 1, 4: 2}
    assert allocate(1000, (1, 2), 5, {"5": {"1": 749, "2": 249}}) == {1: 750, 2: 250}
    # no such formulas in the training set
    assert allocate(20, (1, 2, 3, 4), 7, {}) == {1: 5, 2: 5, 3: 5, 4: 5}
    assert allocate(2, (1, 2, 3, 4), 5, {"5": {"4": 10, "2": 5}}) == {4: 1, 2: 1}


def test_allocation_of_formulas_that_are_not_divided(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The training set's table counts NaO units, of which Na2O2 is two."""
    assert allocate(10, (1, 2), 4, {"2": {"1": 500, "2": 89, "4": 9}}, multiple=2) == {1: 9, 2: 1}
    model = pipeline.load_generator(weights, "cpu")
    monkeypatch.setitem(model.config.cells, "2", {"2": 89, "4": 9})
    plan = pipeline.plan_samples(model, parse_formula("Na2O2"), (1, 2), 10)
    assert sorted(len(request.atomic_numbers) for request in plan) == [4] * 9 + [8]


def run(targets: dict[Composition, tuple[int, ...]], out: Path, weights: Path, **options: Any) -> PredictionRun:
    chosen = {"samples": 8, "device": "cpu", "progress": False, **options}
    return predict_to_folder(targets, out=out, weights=weights, **chosen)


def sample_lines(folder: Path) -> list[str]:
    return (folder / "samples.jsonl").read_text().splitlines()[1:]


def test_python_gives_candidates_with_structures(weights: Path) -> None:
    options: dict[str, Any] = {"cells": "1,2", "sources": "generator", "rank": "recurrence"}
    found = dao.predict("NaCl", samples=6, weights=weights, **options)
    assert [candidate.rank for candidate in found] == list(range(1, len(found) + 1))
    assert sum(candidate.count for candidate in found) <= 6
    for candidate in found:
        assert isinstance(candidate.structure, Structure)
        assert candidate.structure.reduced_formula == candidate.formula == "NaCl"
        assert candidate.source == "generator"
        assert candidate.samples == 6
    again = predict("ClNa", samples=6, weights=str(weights), batch_size=1, **options)
    # energies have the rounding of the batch
    without = [
        [replace(one, e_above_hull=None, e_above_hull_error=None).record() for one in run] for run in (again, found)
    ]
    assert without[0] == without[1]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"cells": "0"}, "cells '0'"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"device": "gpu"}, "device 'gpu': use auto, cpu, cuda or cuda:N"),
        ({"device": "meta"}, "device 'meta': use auto, cpu, cuda or cuda:N"),
        ({"device": "cuda:99"}, "torch finds .* CUDA device"),
    ],
)
def test_bad_options(weights: Path, options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        predict("NaCl", **{"weights": weights, **options})


def test_folders_of_several_formulas(tmp_path: Path, weights: Path) -> None:
    done = run({NACL: (1, 2), MGO: (1,)}, tmp_path, weights)
    assert done.failures == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["MgO", "NaCl"]
    for formula in ("NaCl", "MgO"):
        lines = [json.loads(line) for line in sample_lines(tmp_path / formula)]
        assert len(lines) == 8
        candidates = json.loads((tmp_path / formula / "candidates.json").read_text())
        assert [one["rank"] for one in candidates] == [one["rank"] for one in done.records if one["formula"] == formula]
        assert all((tmp_path / formula / one["cif"]).is_file() for one in candidates)
        alone = predict(formula, 8, cells="1,2" if formula == "NaCl" else "1", weights=weights, sources="generator")
        assert [one.record().items() <= theirs.items() for one, theirs in zip(alone, candidates, strict=True)]
    sizes = [len(json.loads(line)["atomic_numbers"]) for line in sample_lines(tmp_path / "NaCl")]
    assert set(sizes) == {2, 4}


def test_a_second_run_samples_nothing(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run({NACL: (1, 2)}, tmp_path, weights)
    before = listing([tmp_path])
    monkeypatch.setattr("dao.sampling._Walks.once", lambda *_, **__: pytest.fail("sampled again"))
    second = run({NACL: (1, 2)}, tmp_path, weights, batch_size=1)
    assert listing([tmp_path]) == before
    assert first.records == second.records


def test_more_samples_extend_a_run(tmp_path: Path, weights: Path) -> None:
    run({NACL: (1, 2)}, tmp_path / "grown", weights, samples=10)
    short = sample_lines(tmp_path / "grown" / "NaCl")
    run({NACL: (1, 2)}, tmp_path / "grown", weights, samples=25)
    assert sample_lines(tmp_path / "grown" / "NaCl")[:10] == short
    assert len(sample_lines(tmp_path / "grown" / "NaCl")) == 25
    run({NACL: (1, 2)}, tmp_path / "at once", weights, samples=25)

    def counts(name: str) -> list[tuple[str, int, int]]:
        found = json.loads((tmp_path / name / "NaCl" / "candidates.json").read_text())
        return [(one["space_group"], one["num_atoms"], one["count"]) for one in found]

    assert counts("grown") == counts("at once")
    # fewer again: the others stay in the file and are not counted
    fewer = run({NACL: (1, 2)}, tmp_path / "grown", weights, samples=10)
    assert {one["samples"] for one in fewer.records} == {10}
    assert len(sample_lines(tmp_path / "grown" / "NaCl")) == 25


@pytest.mark.parametrize(
    ("options", "what"), [({"seed": 1}, "seed"), ({"steps": 4}, "sampler"), ({"weights": "other"}, "weights")]
)
def test_other_samples_in_the_folder_are_refused(
    tmp_path: Path, weights: Path, options: dict[str, Any], what: str
) -> None:
    run({NACL: (1,)}, tmp_path / "out", weights)
    if "weights" in options:
        tiny_generator(seed=1).save(tmp_path / "other")
        options = {"weights": tmp_path / "other"}
    before = listing([tmp_path])
    started: list[int] = []
    with pytest.raises(InputError, match=f"holds samples made with another {what}: choose another --out"):
        run({NACL: (1,)}, tmp_path / "out", **{"weights": weights, **options}, on_start=lambda: started.append(1))
    assert started == []
    assert listing([tmp_path]) == before


def test_torn_files_are_mended(tmp_path: Path, weights: Path) -> None:
    run({NACL: (1, 2)}, tmp_path, weights, batch_size=1)
    path, expected = tmp_path / "NaCl" / "samples.jsonl", listing([tmp_path])
    raw = path.read_bytes()
    for share in (0.0, 0.02, 0.5, 0.97):
        path.write_bytes(raw[: int(share * len(raw))])
        run({NACL: (1, 2)}, tmp_path, weights, batch_size=1)
        assert listing([tmp_path]) == expected


def test_formulas_without_a_crystal_are_reported(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validate = Crystal.validate

    def strict(self: Crystal, *limits: Any) -> None:
        if 17 in self.atomic_numbers:
            raise InputError("no good")
        validate(self, *limits)

    monkeypatch.setattr(Crystal, "validate", strict)
    done = run({NACL: (1,), MGO: (1,)}, tmp_path, weights)
    assert {one["formula"] for one in done.records} == {"MgO"}
    assert done.failures == [{"formula": "NaCl", "reason": "none of 8 samples is a crystal (the first: no good)"}]
    assert json.loads((tmp_path / "failures.json").read_text()) == done.failures
    assert done.discarded >= 8
    assert json.loads((tmp_path / "NaCl" / "candidates.json").read_text()) == []
    # what failed stays failed, and the file of failures goes with the formula
    run({MGO: (1,)}, tmp_path, weights)
    assert not (tmp_path / "failures.json").exists()


def test_formulas_are_finished_one_after_the_other(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In groups that fill a batch: what comes first is complete before the next is begun."""
    monkeypatch.setattr("dao.prediction.folders.ATOMS_PER_BATCH", 8 * 2)
    seen: list[tuple[str, list[str]]] = []

    def look(records: list[dict[str, Any]]) -> None:
        there = sorted(path.parent.name for path in tmp_path.glob("*/samples.jsonl"))
        seen.append((records[0]["formula"], there))

    done = run({NACL: (1,), MGO: (1,)}, tmp_path, weights, on_records=look)
    assert seen == [("NaCl", ["NaCl"]), ("MgO", ["MgO", "NaCl"])]
    assert [one["formula"] for one in done.records] == [
        *["NaCl"] * sum(one["formula"] == "NaCl" for one in done.records),
        *["MgO"] * sum(one["formula"] == "MgO" for one in done.records),
    ]


def test_what_is_finished_is_not_made_again(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[str] = []

    def again(targets: dict[Composition, tuple[int, ...]], **options: Any) -> tuple[PredictionRun, list[str]]:
        reported.clear()
        options = {"on_result": lambda result: reported.append(str(result.composition)), **options}
        return run(targets, tmp_path, weights, **options), list(reported)

    both = {NACL: (1, 2), MGO: (1,)}
    first, made = again(both)
    assert (first.earlier, made) == (0, ["NaCl", "MgO"])
    second, made = again(both)
    assert (second.earlier, made) == (2, [])
    assert second.records == first.records
    # other settings, a file that is wanted and was not written, damage, and a kill before the end
    assert again(both, samples=9)[1] == ["NaCl", "MgO"]
    assert again(both)[1] == ["NaCl", "MgO"]
    assert again(both, formats=("poscar", "json"))[1] == ["NaCl", "MgO"]
    assert again(both, formats=("json",))[1] == []
    assert again(both, further="report")[1] == ["NaCl", "MgO"]
    assert again(both, further="report")[1] == []
    (tmp_path / "NaCl" / "candidates.json").write_text("[{}")
    assert again(both)[1] == ["NaCl"]
    monkeypatch.setattr("dao.prediction.folders.write_candidates", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        again({NACL: (1,)})
    monkeypatch.undo()
    assert again(both)[1] == ["NaCl"]


def test_another_version_is_said_and_what_fits_is_kept(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run({NACL: (1,), MGO: (1,)}, tmp_path, weights).other_versions == {}
    settings = {one: tmp_path / one / "settings.json" for one in ("NaCl", "MgO")}
    said = {one: json.loads(path.read_text()) for one, path in settings.items()}
    assert said["NaCl"]["version"] == dao.__version__
    settings["NaCl"].write_text(json.dumps(said["NaCl"] | {"version": "0.0.1"}))
    # an early version did not say
    settings["MgO"].write_text(json.dumps({key: value for key, value in said["MgO"].items() if key != "version"}))
    monkeypatch.setattr("dao.sampling._Walks.once", lambda *_, **__: pytest.fail("sampled again"))
    second = run({NACL: (1,), MGO: (1,)}, tmp_path, weights)
    assert (second.earlier, second.other_versions) == (2, {"0.0.1": 1, "an unknown version": 1})
    # candidates that are made again are this version's
    third = run({NACL: (1,)}, tmp_path, weights, formats=("poscar",))
    assert (third.earlier, third.other_versions) == (0, {"0.0.1": 1})
    assert run({NACL: (1,)}, tmp_path, weights, formats=("poscar",)).other_versions == {}


class KilledError(BaseException):
    pass


def test_progress_counts_all_walks_and_never_goes_back(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three walks of each sample, in batches of two: of every walk both ends are told."""

    def first(walks: Any) -> list[int]:
        return [0] * len(walks)

    def walking(*arguments: Any, **options: Any) -> Any:
        return sample(*arguments, **{**options, "choose": first})

    monkeypatch.setattr("dao.prediction.folders.sample", walking)
    monkeypatch.setattr("dao.sampling.CHOICE_FREEDOM", 0)
    told: list[float] = []
    shown = {"samples": 4, "steps": 1, "walks": 3, "batch_size": 2}
    run({NACL: (1,)}, tmp_path, weights, **shown, on_progress=lambda at, _: told.append(at))
    each = [0.0, 2 / 3, 2 / 3, 4 / 3, 4 / 3, 2.0 - 0.2 / 3, 2.0]
    assert told == pytest.approx([*each, *(2.0 + one for one in each)])


@pytest.mark.parametrize("walks", [1, 3])
def test_progress_of_samples_that_take_one_walk_and_of_walks_begun_again(
    tmp_path: Path, weights: Path, walks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too little is free to choose from, and of the second sample the first attempt fails."""
    original: Any = dao.sampling._Walks.once

    def flaky(own: Any, requests: Any, walk: int) -> Any:
        made = original(own, requests, walk)
        fails = [one.request.index == 1 and walk == 0 for one in made]
        return [replace(one, crystal=None) if failed else one for one, failed in zip(made, fails, strict=True)]

    monkeypatch.setattr(dao.sampling._Walks, "once", flaky)
    monkeypatch.setattr("dao.sampling.CHOICE_FREEDOM", 1000)
    told: list[float] = []
    shown = {"samples": 4, "steps": 1, "walks": walks, "batch_size": 2}
    run({NACL: (1,)}, tmp_path, weights, **shown, on_progress=lambda at, _: told.append(at))
    assert told == sorted(told)
    # all of a batch only once it is finished
    assert [told.count(whole) for whole in (2.0, 4.0)] == [2, 1]
    assert told[-1] == 4.0


@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_run_goes_on(tmp_path: Path, weights: Path, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run({NACL: (1, 2), MGO: (1,)}, tmp_path / "unbroken", weights, batch_size=3)
    seen = 0

    def stopping(*arguments: Any, **options: Any) -> Any:
        for count, batch in enumerate(sample(*arguments, **options)):
            if count == after:
                raise KilledError
            yield batch

    def counting(*arguments: Any, **options: Any) -> Any:
        nonlocal seen
        for batch in sample(*arguments, **options):
            seen += len(batch)
            yield batch

    monkeypatch.setattr("dao.prediction.folders.sample", stopping)
    with pytest.raises(KilledError):
        run({NACL: (1, 2), MGO: (1,)}, tmp_path / "killed", weights, batch_size=3)
    monkeypatch.setattr("dao.prediction.folders.sample", counting)
    run({NACL: (1, 2), MGO: (1,)}, tmp_path / "killed", weights, batch_size=3)
    assert seen == 16 - 3 * after
    one, other = (
        {str(Path(name).relative_to(tmp_path / kind)): content for name, content in listing([tmp_path / kind]).items()}
        for kind in ("unbroken", "killed")
    )
    assert one.keys() == other.keys()
    for name in one:
        if name.endswith(("candidates.csv", ".cif")):
            assert one[name] == other[name]


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.skipif("sys.platform == 'win32'")
def test_a_killed_command_goes_on(tmp_path: Path, weights: Path) -> None:
    out, path = tmp_path / "killed", tmp_path / "killed" / "NaCl" / "samples.jsonl"
    options = ["--samples", "8", "--cells", "1,2", "--steps", "20", "--batch-size", "1", "--device", "cpu"]
    command = [
        sys.executable,
        "-m",
        "dao",
        "predict",
        "NaCl",
        *options,
        "--sources",
        "generator",
        "--weights",
        str(weights),
        "--out",
        str(out),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: path.exists() and path.read_bytes().count(b"\n") >= 4, process)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    finished = path.read_bytes()
    assert not (out / "NaCl" / "candidates.json").exists()
    # what a kill in the middle of writing leaves
    path.write_bytes(finished[: finished.rfind(b"\n") + 1] + b'{"atomic_numbers": [11, 1')

    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith("rank")
    assert path.read_bytes().startswith(finished[: finished.rfind(b"\n") + 1])
    requests = [(json.loads(line)["atomic_numbers"], json.loads(line)["index"]) for line in sample_lines(out / "NaCl")]
    assert len(requests) == len({str(request) for request in requests}) == 8
    run({NACL: (1, 2)}, tmp_path / "unbroken", weights, samples=8, steps=20, batch_size=1)
    for name in ("samples.jsonl", "candidates.json", "candidates.csv", "candidates.extxyz"):
        assert (out / "NaCl" / name).read_bytes() == (tmp_path / "unbroken" / "NaCl" / name).read_bytes(), name
