from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from symmetric_toys import tiny_symmetric_generator

from dao.crystal import Crystal
from dao.errors import InputError
from dao.prediction.plausibility import shipped_network
from dao.prediction.walk_choice import WalkChooser
from dao.processes.config import SamplerSettings
from dao.sample_file import SampleFile, signature
from dao.sampling import Sample, SampleRequest

SIGNATURE = {"weights": "abc", "sampler": {"steps": 3}, "seed": 0}


def some(count: int, start: int = 0) -> list[Sample]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(start, start + count):
        crystal = Crystal([11, 17], rng.random((2, 3)), 4 * np.eye(3) + rng.random((3, 3)))
        made.append(Sample(SampleRequest((11, 17), i), crystal))
    return made


def equal(one: Sample, other: Sample) -> bool:
    if one.crystal is None or other.crystal is None:
        return one == other
    arrays = ("atomic_numbers", "frac_coords", "lattice")
    same = all(np.array_equal(getattr(one.crystal, name), getattr(other.crystal, name)) for name in arrays)
    return same and replace(one, crystal=None) == replace(other, crystal=None)


def test_samples_belong_together_by_all_that_they_depend_on() -> None:
    model, settings = tiny_symmetric_generator(), SamplerSettings(steps=3)
    made_by = signature(model, settings, 0, None)
    for changes in (
        {"volume_noise": 0.5},
        {"shape_noise": 0.0},
        {"free_probability": 0.1},
        {"subgroup_probability": 0.1},
        {"steps": 4},
    ):
        assert signature(model, settings.updated(**changes), 0, None) != made_by, changes
    assert signature(model, settings, 1, None) != made_by
    network = shipped_network("cpu")
    assert network is not None
    chooser = WalkChooser(network)
    assert signature(model, settings.updated(walks=3), 0, None, chooser) != made_by
    assert signature(model, settings, 0, None, chooser) == {**made_by, "walks chosen by": chooser.record}
    # as they were signed before there were such settings, and before symmetries were given out otherwise
    assert (
        not {"volume_noise", "shape_noise", "free_probability", "subgroup_probability", "walks"}
        & made_by["sampler"].keys()
    )
    assert "symmetries" in made_by


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "NaCl", SIGNATURE)
    assert file.read() == {}
    assert list(tmp_path.iterdir()) == []
    failed = Sample(SampleRequest((11, 17), 9), None, "two atoms 0.1 A apart")
    asked = Sample(SampleRequest((11, 17), 0, 225), some(1)[0].crystal)
    replica = Sample(SampleRequest((11, 17), 0, replica=2), some(1)[0].crystal)
    chosen = Sample(SampleRequest((11, 17), 0, 221), some(1)[0].crystal, attempts=4, walk=5)
    last = Sample(SampleRequest((11, 17), 0, 166), some(1)[0].crystal, attempts=2, walk=1)
    batches = [some(3), [failed, asked, replica, chosen, last], some(2, 3)]
    for batch in batches:
        file.append(batch)
    found = SampleFile(tmp_path / "NaCl", SIGNATURE).read()
    written = [one for batch in batches for one in batch]
    assert list(found) == [one.request for one in written]
    assert all(equal(found[one.request], one) for one in written)


def test_samples_of_before_say_how_many_attempts_they_took(tmp_path: Path) -> None:
    """All of one walk, and the last was kept."""
    line = {
        "atomic_numbers": [11],
        "index": 0,
        "attempts": 3,
        "lattice": np.eye(3).tolist(),
        "frac_coords": [[0, 0, 0]],
    }
    (tmp_path / "samples.jsonl").write_text(f"{json.dumps({'made_by': SIGNATURE})}\n{json.dumps(line)}\n")
    (found,) = SampleFile(tmp_path, SIGNATURE).read().values()
    assert (found.attempts, found.walk) == (3, 2)


def test_a_torn_last_line_is_cut_off(tmp_path: Path) -> None:
    file = SampleFile(tmp_path, SIGNATURE)
    file.append(some(4))
    raw = file.path.read_bytes()
    starts = [i + 1 for i, byte in enumerate(raw) if byte == ord("\n")]
    for end in (*range(0, len(raw), 61), *starts, *(start - 1 for start in starts)):
        file.path.write_bytes(raw[:end])
        found = SampleFile(tmp_path, SIGNATURE).read()
        whole = sum(start <= end for start in starts)
        assert len(found) == max(0, whole - 1)
        assert file.path.read_bytes() == raw[: starts[whole - 1] if whole else 0]
        file.append(some(4)[len(found) :])
        assert file.path.read_bytes() == raw


@pytest.mark.parametrize(
    ("key", "value"), [("weights", "xyz"), ("seed", 1), ("sampler", {"steps": 4}), ("sampler", {"steps": 3, "new": 1})]
)
def test_samples_made_otherwise_are_refused(tmp_path: Path, key: str, value: Any) -> None:
    SampleFile(tmp_path, SIGNATURE).append(some(1))
    with pytest.raises(InputError, match=f"made with another {key}: choose another --out"):
        SampleFile(tmp_path, SIGNATURE | {key: value}).read()


@pytest.mark.parametrize(
    "content",
    [
        b"\n",
        b"[]\n",
        b"{}\n",
        b'{"made_by": 3}\n',
        b"\xff\xfe\n",
        b"hello\n",
        b'{"made_by": {}}\n{"index": 0}\n',
        b'{"made_by": {}}\n3\n',
        b'{"made_by": {}}\n{"atomic_numbers": [11], "index": 0, "lattice": [1], "frac_coords": []}\n',
        b"[" * 100_000 + b"\n",
    ],
)
def test_foreign_files_are_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "samples.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"samples\.jsonl: not a file of samples"):
        SampleFile(tmp_path, SIGNATURE).read()
    assert (tmp_path / "samples.jsonl").read_bytes() == content


def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is no folder"):
        SampleFile(tmp_path / "file", SIGNATURE).read()
    with pytest.raises(InputError, match="cannot be written"):
        SampleFile(tmp_path / "file" / "NaCl", SIGNATURE).append(some(1))
