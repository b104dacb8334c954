from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from superconducting_toys import CRYSTALS, EXTRA, write_generated
from toys import tiny_generator, tiny_predictor

from dao.data.properties import load_property
from dao.data.properties.superconductors import GROUPED, LABEL, RANDOM
from dao.errors import InputError
from dao.superconductors.augmentation import Generation, augmented, generate_structures, read_generated
from dao.superconductors.dataset import Superconductors, compositions_of, systems_of
from dao.training.finetune import FinetuneSettings, finetune


@pytest.mark.parametrize("name", [RANDOM, GROUPED])
@pytest.mark.usefixtures("toys")
def test_nothing_of_a_test_crystal_is_added(tmp_path: Path, name: str) -> None:
    plain = load_property(name)
    data = augmented(plain, write_generated(tmp_path / "g.parquet", EXTRA))
    assert data.extra is not None
    own = (systems_of if name == GROUPED else compositions_of)(data.crystals)
    of_extra = (systems_of if name == GROUPED else compositions_of)(data.extra)
    held_out = 0
    for fold, before in zip(data.folds, plain.folds, strict=True):
        assert fold.extra is not None
        tested = {own[i] for i in fold.test.tolist()}
        kept = fold.extra.tolist()
        assert kept == [i for i in range(3) if of_extra[i] not in tested]
        held_out += 3 - len(kept)
        # the crystals that are tested and validated on are the same with and without
        assert torch.equal(fold.test, before.test)
        assert torch.equal(fold.train, before.train)
    # RbF is tested on in one fold; where systems count, so is RbF2
    assert held_out == (2 if name == GROUPED else 1)
    assert "3 generated structures (one-shot, generator 0123456789abcdef)" in data.notes[-1]


@pytest.mark.usefixtures("toys")
def test_generated_crystals_are_trained_on_and_nothing_else(tmp_path: Path) -> None:
    tiny_predictor().save(tmp_path / "weights")
    settings = FinetuneSettings(weights=tmp_path / "weights", epochs=1, batch_size=8, precision="float32")
    plain = load_property(RANDOM)
    data = augmented(plain, write_generated(tmp_path / "g.parquet", EXTRA))
    results = {
        name: finetune(one, settings, out=tmp_path / name, folds=["0"], device="cpu", progress=False)
        for name, one in (("without", plain), ("with", data))
    }
    with_extra, without = (results[name]["folds"][0] for name in ("with", "without"))
    assert data.folds[0].extra is not None
    assert (without["extra"], with_extra["extra"]) == (0, len(data.folds[0].extra))
    for key in ("train", "validation", "test", "baseline_mae"):
        assert with_extra[key] == without[key]
    seed = "fold-0/seed-0"
    config = json.loads((tmp_path / "with" / seed / "last" / "config.json").read_text())
    assert config["training"]["data"].endswith(f"{without['train'] + with_extra['extra']} crystals")
    ids = [line.split(",")[0] for line in (tmp_path / "with" / seed / "test.csv").read_text().splitlines()[1:]]
    assert ids == [plain.crystals.ids[i] for i in plain.folds[0].test.tolist()]
    # another set of generated crystals is another run
    other = augmented(plain, write_generated(tmp_path / "h.parquet", EXTRA[:2]))
    with pytest.raises(InputError, match="holds another run"):
        finetune(other, settings, out=tmp_path / "with", folds=["0"], device="cpu", progress=False)


@pytest.mark.usefixtures("toys")
def test_members_choose_by_different_crystals(tmp_path: Path) -> None:
    tiny_predictor().save(tmp_path / "weights")
    settings = FinetuneSettings(weights=tmp_path / "weights", epochs=1, batch_size=8, precision="float32", members=2)
    data = load_property(RANDOM)
    unequal = replace(data, folds=(replace(data.folds[0], validations=(torch.arange(3), torch.arange(3, 10))),))
    rows = replace(unequal.folds[0], train=torch.arange(40), test=torch.arange(40, 50))
    finetune(replace(unequal, folds=(rows,)), settings, out=tmp_path / "run", device="cpu", progress=False)
    sizes = [
        json.loads((tmp_path / f"run/fold-0/seed-{seed}/figures.json").read_text())["validation"] for seed in (0, 1)
    ]
    assert sizes == [3, 7]


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"generated": ["a", "a", "b"]}, "more than one generator"),
        ({"generated": ["", "", ""]}, "not marked as generated"),
        ({"tc": [1.0, 0.0, 1.0]}, "a critical temperature of 0 K"),
    ],
)
def test_what_is_not_marked_is_refused(toys: Path, tmp_path: Path, replaced: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_generated(write_generated(tmp_path / "g.parquet", EXTRA, **replaced))
    with pytest.raises(InputError, match="no column 'generated'"):
        augmented(load_property(RANDOM), toys / "supercon3d.parquet")


@pytest.mark.usefixtures("toys")
def test_structures_are_generated_marked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = tiny_generator()
    generator.save(tmp_path / "generator")
    others = Superconductors.load().without_structure
    how = Generation(weights=tmp_path / "generator", seed=3, device="cpu")
    summary = generate_structures(others, how, out=tmp_path / "out", progress=False)
    made = read_generated(tmp_path / "out" / "generated.parquet")
    assert summary["structures"] == len(made) > 0
    assert summary["structures"] + len(summary["failed"]) == len(others)
    assert set(made.columns["generated"].tolist()) == {generator.fingerprint} == {summary["generated"]}
    known = {one.composition.reduced_formula: one for one in others}
    for row in range(len(made)):
        one = known[made.crystal(row).reduced_formula]
        assert float(made.labels[LABEL][row].exp()) == pytest.approx(one.temperature, rel=1e-5)
    before = pq.read_table(tmp_path / "out" / "generated.parquet")
    # what is finished is not made again
    monkeypatch.setattr("dao.prediction.folders.sample", lambda *_, **__: pytest.fail("sampled again"))
    generate_structures(others, how, out=tmp_path / "out", progress=False)
    assert pq.read_table(tmp_path / "out" / "generated.parquet").equals(before)


def test_toys_are_as_the_tests_say() -> None:
    keys = {one.reduced_formula for one in CRYSTALS}
    assert "RbF" in keys
    assert not {"RbF2", "LiTl"} & keys
