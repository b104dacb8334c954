from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymatgen.core.structure_matcher import StructureMatcher
from toys import tiny_generator, toy, toy_crystals

import dao.sampling
from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation import csp
from dao.evaluation.csp import Matching, Predicted, Sampling, requests_for
from dao.evaluation.targets import Targets
from dao.processes.config import SamplerSettings

ROCKSALT = toy("rocksalt", ("Cs", "Cl"), 7.0, "rocksalt")
CSCL = toy("cscl", ("Cs", "Cl"), 4.1, "cscl")
ZINCBLENDE = toy("zincblende", ("Cs", "Cl"), 7.6, "zincblende")
DOUBLE = Crystal.from_structure(CSCL.to_structure().make_supercell([2, 1, 1]))
NACL = toy("rocksalt", ("Na", "Cl"), 5.6, "nacl")
SIBLINGS = Targets("toys", "", (ROCKSALT, NACL, CSCL, ZINCBLENDE), 4, "", {})
SETTINGS = SamplerSettings(steps=2)


def of(crystals: Sequence[Crystal]) -> Targets:
    return Targets("toys", "", tuple(crystals), len(crystals), "", {})


def matching(targets: Targets, table: Sequence[Sequence[Crystal | None]], path: Path, **made_by: Any) -> Matching:
    predicted = Predicted(tuple(map(tuple, table)), {"file": "x"} | made_by)
    return Matching.plan(targets, predicted, seconds=10.0, path=path)


def compare(one: Matching, within: int | None = None) -> int:
    """Do what is missing; how many comparisons that were."""
    count: list[int] = []
    one.run(one.pairs(within), count.append, workers=1, seconds=10.0)
    return sum(count)


# requests and samples


def test_targets_that_share_a_composition_differ_in_replica_alone() -> None:
    rows = requests_for(of([ROCKSALT, NACL, CSCL, DOUBLE, ZINCBLENDE]), 3)
    assert [[request.index for request in row] for row in rows] == [[0, 1, 2]] * 5
    assert [{request.replica for request in row} for row in rows] == [{0}, {0}, {1}, {0}, {2}]
    assert rows[3][0].atomic_numbers == (17, 17, 55, 55)
    assert len({request for row in rows for request in row}) == 15


def test_siblings_get_other_noise_and_the_same_space_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_generator()
    drawn: dict[tuple[int, int], int] = {}
    draw = dao.sampling._space_groups

    def spy(model: Any, requests: Any, *rest: Any) -> Any:
        groups: Any = draw(model, requests, *rest)
        drawn.update({(one.replica, one.index): int(group) for one, group in zip(requests, groups, strict=True)})
        return groups

    monkeypatch.setattr(dao.sampling, "_space_groups", spy)
    plan = Sampling.plan(model, SIBLINGS.select([0, 2, 3]), 6, seed=0, settings=SETTINGS, out=tmp_path)
    table = plan.run(lambda _: None).crystals
    shares = [[drawn[replica, index] for index in range(6)] for replica in range(3)]
    assert shares[0] == shares[1] == shares[2]
    assert len(set(shares[0])) > 1
    cells = [one.lattice for row in table for one in row if one is not None]
    assert len(cells) > 6
    assert all(not np.allclose(a, b, atol=1e-3) for i, a in enumerate(cells) for b in cells[:i])


def test_a_target_is_predicted_as_if_it_stood_alone(tmp_path: Path) -> None:
    model = tiny_generator()

    def cells(targets: Targets, out: Path) -> list[np.ndarray[Any, Any]]:
        plan = Sampling.plan(model, targets, 2, seed=3, settings=SETTINGS, out=out)
        return [one.lattice for row in plan.run(lambda _: None).crystals for one in row if one is not None]

    together, alone = cells(SIBLINGS, tmp_path / "a"), cells(SIBLINGS.select([0]), tmp_path / "b")
    for one, other in zip(together, alone, strict=False):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_samples_are_kept_and_only_missing_ones_made(tmp_path: Path) -> None:
    model = tiny_generator()

    def plan(samples: int, **changes: Any) -> Sampling:
        chosen: dict[str, Any] = {"seed": 0, "settings": SETTINGS} | changes
        return Sampling.plan(model, SIBLINGS, samples, out=tmp_path, **chosen)

    assert list(tmp_path.iterdir()) == []
    told: list[int] = []
    first = plan(1).run(told.append, batch_size=3)
    assert told == [3, 1]
    before = (tmp_path / "samples-0.jsonl").read_bytes()
    assert [one.index for one in plan(2).missing] == [1] * 4
    second = plan(2).run(lambda _: None)
    assert (tmp_path / "samples-0.jsonl").read_bytes().startswith(before)
    assert plan(2).missing == plan(1).missing == []
    for one, other in zip(first.crystals, second.crystals, strict=True):
        for a, b in zip(one, other, strict=False):
            assert a is None if b is None else a is not None and np.array_equal(a.lattice, b.lattice)
    for changes in ({"settings": SamplerSettings(steps=3)}, {"settings": SETTINGS.updated(precision="bfloat16")}):
        with pytest.raises(InputError, match="samples made with another sampler"):
            plan(1, **changes)
    assert plan(1, seed=1).missing == plan(1, seed=1).missing != []
    assert second.walks >= 1.0
    with pytest.raises(InputError, match="samples made with another weights"):
        Sampling.plan(tiny_generator(seed=1), SIBLINGS, 1, seed=0, settings=SETTINGS, out=tmp_path)


# matches


def test_pairs_are_own_samples_and_those_of_namesakes(tmp_path: Path) -> None:
    targets = of([CSCL, NACL, DOUBLE])
    one = matching(targets, [[CSCL, None], [NACL, NACL], [DOUBLE, None]], tmp_path / "matches.jsonl")
    assert len(set(one.pairs())) == len(one.pairs())
    assert set(one.pairs()) == {
        *((1, index, 1) for index in (0, 1)),
        *((owner, index, target) for owner in (0, 2) for index in (0, 1) for target in (0, 2)),
    }
    assert set(one.pairs(within=1)) == set(one.pairs()) - {(0, 1, 2), (2, 1, 0)}
    assert set(one.pairs(within=0)) == {(row, index, row) for row in range(3) for index in (0, 1)}


def test_metre_lets_siblings_swap_places(tmp_path: Path) -> None:
    # each of the two is a sample of the other, at the second try
    table: list[list[Crystal | None]] = [[None, CSCL], [NACL, None], [None, ROCKSALT], [None, None]]
    judge = StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)
    pool = [CSCL.to_structure(), ROCKSALT.to_structure()]
    found = [judge.get_rms_dist(sample, ZINCBLENDE.to_structure()) for sample in pool]
    third = min((distance[0] for distance in found if distance is not None), default=None)
    one = matching(SIBLINGS, table, tmp_path / "matches.jsonl")
    assert compare(one) == len(one.pairs()) == 3 * 3 * 2 + 2
    none = np.nan
    np.testing.assert_allclose(one.distances(), [[none] * 2, [0.0, none], [none] * 2, [none] * 2], atol=1e-6)
    np.testing.assert_allclose(one.everyone(1), [none, 0.0, none, none], atol=1e-6)
    expected = [0.0, 0.0, 0.0, none if third is None else third]
    np.testing.assert_allclose(one.everyone(2), expected, atol=1e-6)
    scores = one.scores(everyone=(1, 2))
    assert list(scores.everyone) == [1, 2]
    assert scores.formulas == ("CsCl", "NaCl", "CsCl", "CsCl")
    np.testing.assert_array_equal(scores.sample_valid[:, 0], [False, True, False, False])


def test_distances_are_those_of_pymatgen(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crystals = toy_crystals()[:6]
    table = [
        [
            Crystal(one.atomic_numbers, one.frac_coords + amount * rng.normal(size=(one.num_atoms, 3)), one.lattice)
            for amount in (0.02, 0.15)
        ]
        for one in crystals
    ]
    found = matching(of(crystals), table, tmp_path / "matches.jsonl")
    compare(found)
    for strict, judge in (
        (False, StructureMatcher(stol=0.5, ltol=0.3, angle_tol=10)),
        (True, StructureMatcher()),
    ):
        expected = [
            [judge.get_rms_dist(sample.to_structure(), target.to_structure()) for sample in row]
            for row, target in zip(table, crystals, strict=True)
        ]
        plain = np.array([[np.nan if one is None else one[0] for one in row] for row in expected])
        np.testing.assert_allclose(found.distances(strict=strict), plain, atol=1e-8)
        assert not np.isnan(plain).all()


def test_matches_are_kept_for_more_samples_and_ignored_for_fewer(tmp_path: Path) -> None:
    path = tmp_path / "matches.jsonl"
    small = matching(SIBLINGS, [[row] for row in SIBLINGS.crystals], path)
    compare(small)
    before = path.read_bytes()
    wide = matching(SIBLINGS, [[row, None, row] for row in SIBLINGS.crystals], path)
    assert compare(wide) == len(wide.pairs()) - len(small.pairs())
    assert path.read_bytes().startswith(before)
    assert len(path.read_text().splitlines()) == 1 + len(set(wide.pairs()))
    np.testing.assert_array_equal(wide.distances()[:, 0], small.distances()[:, 0])
    again = matching(SIBLINGS, [[row] for row in SIBLINGS.crystals], path)
    assert compare(again) == 0
    assert again.scores(everyone=(1,)).to_json() == small.scores(everyone=(1,)).to_json()


def test_time_outs_are_those_of_the_samples_in_question(tmp_path: Path) -> None:
    path = tmp_path / "matches.jsonl"
    wide = matching(of([NACL]), [[None, None]], path)
    wide.file.append([[0, 0, 0, None, None, True], [0, 1, 0, None, None, True]])
    assert matching(of([NACL]), [[None, None]], path).scores(everyone=()).timeouts == 2
    assert matching(of([NACL]), [[None]], path).scores(everyone=()).timeouts == 1


def test_matches_of_something_else_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "matches.jsonl"
    compare(matching(of([NACL]), [[NACL]], path))
    before = path.read_bytes()
    with pytest.raises(InputError, match="matches made with another predictions"):
        matching(of([NACL]), [[NACL]], path, file="y")
    with pytest.raises(InputError, match="matches made with another targets"):
        matching(of([CSCL]), [[CSCL]], path)
    with pytest.raises(InputError, match="matches made with another time limit"):
        Matching.plan(of([NACL]), Predicted(((NACL,),), {"file": "x"}), seconds=9.0, path=path)
    for line in (b"{}\n", b"[0, 0]\n", b'["a", 0, 0, null, null, false]\n'):
        path.write_bytes(before + line)
        with pytest.raises(InputError, match="not a file of matches"):
            matching(of([NACL]), [[NACL]], path)


def test_ctrl_c_during_a_write_writes_no_line_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csp, "MATCHES_AT_A_TIME", 3)
    fsync, calls = os.fsync, []

    def interrupted(number: int) -> None:
        fsync(number)
        calls.append(number)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(os, "fsync", interrupted)
    path = tmp_path / "matches.jsonl"
    crystals = toy_crystals()[:10]
    with pytest.raises(KeyboardInterrupt):
        compare(matching(of(crystals), [[one] for one in crystals], path))
    assert len(path.read_text().splitlines()) == 1 + 6
    again = matching(of(crystals), [[one] for one in crystals], path)
    assert compare(again) == 4
    lines = path.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 1 + 10
    assert not np.isnan(again.distances()).any()


def test_ctrl_c_during_a_comparison_keeps_the_answers_so_far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dao.evaluation.matching import _Comparison

    answer, calls = _Comparison.answer, []

    def interrupted(self: Any, *pair: Any) -> Any:
        calls.append(pair)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return answer(self, *pair)

    monkeypatch.setattr(_Comparison, "answer", interrupted)
    path = tmp_path / "matches.jsonl"
    crystals = toy_crystals()[:10]
    with pytest.raises(KeyboardInterrupt):
        compare(matching(of(crystals), [[one] for one in crystals], path))
    assert len(path.read_text().splitlines()) == 1 + 4
    assert compare(matching(of(crystals), [[one] for one in crystals], path)) == 6
