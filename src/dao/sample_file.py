"""Finished samples on disk, appended batch by batch, so that a kill loses at most the running one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dao.crystal import Crystal
from dao.jsonl import JsonLines
from dao.networks.subgroup_search import BEAMS, LEAST_ODDS
from dao.sampling import Sample, SampleRequest
from dao.symmetry_choice import SUBGROUP_PROPOSALS

if TYPE_CHECKING:
    from dao.models import Generator
    from dao.prediction.walk_choice import WalkChooser
    from dao.processes.config import SamplerSettings
    from dao.processes.guidance import Guidance


def signature(
    model: Generator,
    settings: SamplerSettings,
    seed: int,
    guidance: Guidance | None,
    choose: WalkChooser | None = None,
) -> dict[str, Any]:
    """What samples in a file must agree on to belong together; not batch size or device, which only round.

    ``choose`` is what chooses among the walks of a sample, if anything does.
    """
    sampler = asdict(settings)
    for name, unused in (
        ("free_probability", 0.0),
        ("subgroup_probability", 0.0),
        ("volume_noise", 1.0),
        ("shape_noise", 1.0),
        ("walks", 1),
    ):
        if sampler[name] == unused:
            del sampler[name]  # as it was before there was such a setting: such samples are the same
    made_by = {"weights": model.fingerprint, "sampler": sampler, "seed": seed}
    if model.symmetry_table is not None:
        made_by["symmetries"] = "by discoveries"  # before: shared out in proportion; such samples are others
        if settings.subgroup_probability:
            made_by["subgroups"] = f"{SUBGROUP_PROPOSALS} of each kind from {LEAST_ODDS:g}, by {BEAMS} beams"
    if choose is not None:
        made_by["walks chosen by"] = choose.record
    return made_by if guidance is None else {**made_by, "guidance": guidance.record()}


class SampleFile:
    """``samples.jsonl`` (or another ``name``) in a folder: finished samples and what they were made by."""

    def __init__(self, folder: Path, signature: dict[str, Any], name: str = "samples.jsonl") -> None:
        """Name the folder and what its samples must have been made by; nothing is written yet."""
        self.folder = folder
        self._lines = JsonLines(folder / name, signature, "samples")

    @property
    def path(self) -> Path:
        """The file."""
        return self._lines.path

    def read(self) -> dict[SampleRequest, Sample]:
        """Samples that an earlier run finished; a torn last line is cut off the file.

        Raises:
            InputError: the samples were made by other weights or settings, or the file is not one of ours.

        """
        return {one.request: one for one in self._lines.read(_from_line)}

    def append(self, samples: Sequence[Sample]) -> None:
        """Add finished samples and flush them to the disk.

        Raises:
            InputError: the folder cannot be written.

        """
        self._lines.append(map(_to_line, samples))


def _to_line(one: Sample) -> dict[str, Any]:
    line: dict[str, Any] = {"atomic_numbers": one.request.atomic_numbers, "index": one.request.index}
    if one.request.space_group is not None:
        line["space_group"] = one.request.space_group
    if one.request.replica:
        line["replica"] = one.request.replica
    if one.attempts > 1:
        line["attempts"] = one.attempts
    if one.walk != one.attempts - 1:  # else the last
        line["walk"] = one.walk
    if one.crystal is None:
        return line | {"failure": one.failure}
    return line | {"lattice": one.crystal.lattice.tolist(), "frac_coords": one.crystal.frac_coords.tolist()}


def _from_line(line: dict[str, Any]) -> Sample:
    numbers = tuple(int(number) for number in line["atomic_numbers"])
    request = SampleRequest(numbers, int(line["index"]), line.get("space_group"), int(line.get("replica", 0)))
    attempts = int(line.get("attempts", 1))
    walk = int(line.get("walk", attempts - 1))
    if "failure" in line:
        return Sample(request, None, str(line["failure"]), attempts, walk)
    crystal = Crystal(np.array(numbers), np.array(line["frac_coords"]), np.array(line["lattice"]))
    return Sample(request, crystal, "", attempts, walk)
