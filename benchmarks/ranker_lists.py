"""Lists of candidates with what is right in them: what the learned ranker is trained and judged on.

Run: python benchmarks/ranker_lists.py EVALUATION --data mp20 --count 1600 --table mp20 --out runs/lists/mp20.jsonl

EVALUATION is the folder of a ``dao evaluate csp`` of generated samples on a **validation** split (samples-0.jsonl is
all that is read of it). For each of its targets a line is written: the generator's distinct candidates, the
prototypes', which of both are the same crystal, what the predictor, the plausibility network and the generator's
symmetry prior say of each, and its RMS distance to the true crystal at the benchmark's tolerances (null: no match). A
killed run goes on where it stopped.
``--part 0/2`` does every other target, for two processes with a file each; :func:`read_lists` reads several files as
one.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dao.crystal import Crystal
from dao.errors import InputError
from dao.evaluation.csp import requests_for
from dao.evaluation.matching import match_pairs
from dao.evaluation.targets import Targets, find_data, load_targets
from dao.jsonl import JsonLines, read_made_by
from dao.models import Generator, Predictor
from dao.prediction.energies import load_predictor, predict_with_errors
from dao.prediction.plausibility import load_plausibility, log_odds
from dao.prediction.proposals import merged, proposed, space_group_votes, with_space_group_shares
from dao.prediction.prototypes import Proposer
from dao.prediction.ranking import (
    Candidate,
    rank_by_recurrence,
    same_crystals,
    with_energies,
    with_plausibilities,
    with_symmetries,
)
from dao.prediction.sources import resolve_table
from dao.prediction.symmetry_odds import SymmetryOdds
from dao.progress import CountProgress
from dao.property_model import PropertyPredictor
from dao.sample_file import SampleFile
from dao.weights import DEFAULT, DEFAULT_PREDICTOR, resolve, shipped_plausibility

CRYSTAL = ("atomic_numbers", "frac_coords", "lattice")


@dataclass(frozen=True, eq=False)
class Lists:
    """The candidates of one target.

    Attributes:
        target: its id.
        atoms: in its cell.
        elements: its elements' atomic numbers, whose crystals stay in one fold.
        prototypes: P candidates, the most similar first.
        generated: G candidates, the most recurrent first.
        groups: which of the P + G are the same crystal.
        rms: (P + G) RMS distance to the true crystal; nan: no match.
        both: energy and its expected error of each candidate of both, whose volumes are not those of the parts; None
            where not known. Plausibility is of the parts, as in predictions.

    """

    target: str
    atoms: int
    elements: tuple[int, ...]
    prototypes: list[Candidate]
    generated: list[Candidate]
    groups: list[list[int]]
    rms: list[float | None]
    both: list[tuple[float, float | None]] | None = None

    def within(self, samples: int, proposals: int) -> Lists:
        """What fewer samples and proposals would have brought, but for volumes and energies of what is found again."""
        kept = list(range(min(proposals, len(self.prototypes))))
        found = []
        for place, one in enumerate(self.generated, start=len(self.prototypes)):
            few = tuple(pair for pair in one.sample_indices if pair[1] < samples)
            if few:
                found.append((place, replace(one, sample_indices=few, count=len(few), samples=samples)))
        found.sort(key=lambda item: -item[1].count)
        kept += [place for place, _ in found]
        places = {place: i for i, place in enumerate(kept)}
        groups = [sorted(places[i] for i in group if i in places) for group in self.groups]
        whole = len(kept) == len(self.rms) and sum(one.count for _, one in found) == sum(
            one.count for one in self.generated
        )
        return replace(
            self,
            prototypes=[replace(one, samples=samples) for one in self.prototypes[:proposals]],
            generated=[one for _, one in found],
            groups=sorted(group for group in groups if group),
            rms=[self.rms[place] for place in kept],
            both=self.both if whole else None,
        )

    def candidates(self, sources: str) -> tuple[list[Candidate], np.ndarray[Any, np.dtype[np.float64]]]:
        """Of ``generator``, ``prototypes`` or ``both``, and the RMS distance of each, nan = no match."""
        numbered = [
            replace(one, crystal=replace(one.crystal, material_id=str(number)))
            for number, one in enumerate([*self.prototypes, *self.generated])
        ]
        prototypes, generated = numbered[: len(self.prototypes)], numbered[len(self.prototypes) :]
        if sources == "both":
            found = merged(generated, prototypes, self.groups)
            if self.both is not None:
                found = with_energies(found, [energy for energy, *_ in self.both], [one[1] for one in self.both])
        elif sources == "generator":
            found = [replace(one, space_group_share=None) for one in generated]
        else:
            found = [replace(one, samples=0, log_symmetry=None) for one in prototypes]
        # matching does not depend on volumes, which are all that merging changes
        distances = [self.rms[int(str(one.crystal.material_id))] for one in found]
        return found, np.array([np.nan if rms is None else rms for rms in distances])


@dataclass(frozen=True)
class Networks:
    """What judges candidates; a generator without a symmetry prior has no say."""

    predictor: Predictor
    plausibility: PropertyPredictor
    symmetry: SymmetryOdds | None


def make(
    row: int,
    target: Crystal,
    samples: Sequence[Crystal],
    proposer: Proposer,
    networks: Networks,
    *,
    proposals: int,
    exclude: bool,
) -> dict[str, Any]:
    """The line of one target."""
    numbers = tuple(sorted(target.atomic_numbers.tolist()))
    cells = {1: numbers}
    found = [(1, i, crystal) for i, crystal in enumerate(samples)]
    generated = rank_by_recurrence("list", len(numbers), found, total=len(found), source="generator")
    own = proposed(proposer, "list", cells, proposals, samples=len(found), exclude_same_composition=exclude)
    every = [*own, *generated]
    groups = same_crystals([one.crystal for one in every], distinct=len(own))
    every = with_space_group_shares(every, space_group_votes(proposer, cells, exclude_same_composition=exclude))
    every = judged(every, networks)
    both = with_predicted_energies(merged(every[len(own) :], every[: len(own)], groups), networks.predictor)
    pairs = [(i, 0) for i in range(len(every))]
    matches = match_pairs([one.crystal for one in every], [target], pairs, seconds=10.0)
    return {
        "row": row,
        "target": target.name,
        "atoms": target.num_atoms,
        "elements": sorted(target.counts),
        "prototypes": [to_record(one) for one in every[: len(own)]],
        "generated": [to_record(one) for one in every[len(own) :]],
        "groups": groups,
        "rms": [match.rms for match in matches],
        "both": [(one.e_above_hull, one.e_above_hull_error) for one in both],
    }


def judged(candidates: Sequence[Candidate], networks: Networks) -> list[Candidate]:
    """With what the networks say of them."""
    known = with_predicted_energies(candidates, networks.predictor)
    known = with_plausibilities(known, log_odds(networks.plausibility, [one.crystal for one in known]))
    return known if networks.symmetry is None else with_symmetries(known, networks.symmetry.log_probabilities(known))


def with_predicted_energies(candidates: Sequence[Candidate], model: Predictor) -> list[Candidate]:
    """With their energies above the hull and expected errors."""
    said = predict_with_errors(model, [one.crystal for one in candidates])
    return with_energies(candidates, [one.energy for one in said], [one.error for one in said])


def to_record(one: Candidate) -> dict[str, Any]:
    """A candidate as plain JSON, with its crystal."""
    record = {field.name: getattr(one, field.name) for field in fields(one) if field.name != "crystal"}
    return record | {name: getattr(one.crystal, name).tolist() for name in CRYSTAL}


def from_record(record: dict[str, Any]) -> Candidate:
    """What :func:`to_record` made."""
    numbers, coords, lattice = (np.array(record.pop(name)) for name in CRYSTAL)
    crystal = Crystal(numbers, coords, lattice)
    record["sample_indices"] = tuple((one, two) for one, two in record["sample_indices"])
    return Candidate(crystal=crystal, **record)


def from_line(line: dict[str, Any]) -> tuple[int, Lists]:
    """A line of the file."""
    row = int(line.pop("row"))
    for name in ("prototypes", "generated"):
        line[name] = [from_record(record) for record in line[name]]
    return row, Lists(**line | {"elements": tuple(line["elements"])})


def read_lists(paths: Sequence[Path]) -> list[Lists]:
    """All targets of these files, in their order.

    Raises:
        InputError: no such file.

    """
    found: dict[int, Lists] = {}
    for path in paths:
        found |= dict(JsonLines(path, read_made_by(path, "lists"), "lists").read(from_line))
    return [found[row] for row in sorted(found)]


def sampled(folder: Path, targets: Targets, samples: int) -> tuple[dict[int, list[Crystal]], dict[str, Any]]:
    """Crystals among the first samples of each target that has them all, and what they were made by."""
    made_by = read_made_by(folder / "samples-0.jsonl", "samples")
    done = SampleFile(folder, made_by, "samples-0.jsonl").read()
    found = {}
    for row, requests in enumerate(requests_for(targets, samples)):
        if all(request in done for request in requests):
            crystals = [done[request].crystal for request in requests]
            found[row] = [one for one in crystals if one is not None]
    return found, made_by


def main() -> None:
    """Write what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("--data", choices=("mp20", "mpts52"), required=True)
    parser.add_argument("--split", default="val", choices=("val",))
    parser.add_argument("--count", type=int, required=True, help="as dao evaluate csp was given")
    parser.add_argument("--table", required=True)
    parser.add_argument("--exclude-same-composition", action="store_true")
    parser.add_argument("--generator", default=DEFAULT, help="weights that made the samples")
    parser.add_argument("--predictor", default=DEFAULT_PREDICTOR)
    parser.add_argument("--plausibility", type=Path, default=shipped_plausibility())
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--proposals", type=int, default=20)
    parser.add_argument("--part", default="0/1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    part, parts = map(int, options.part.split("/"))
    targets = load_targets(find_data(options.data), split=options.split, count=options.count)
    samples, made_by = sampled(options.evaluation, targets, options.samples)
    networks = Networks(
        load_predictor(resolve(options.predictor), "cpu"),
        load_plausibility(options.plausibility, "cpu"),
        SymmetryOdds.load(resolve(options.generator)),
    )
    if Generator.load(resolve(options.generator)).fingerprint != made_by["weights"]:
        raise InputError(f"{options.evaluation}: its samples are not of {options.generator}")
    proposer = Proposer.load(resolve_table(options.table))
    full = {
        "samples": made_by,
        "targets": targets.fingerprint(),
        "first": options.samples,
        "prototypes": proposer.table.fingerprint,
        "proposals": options.proposals,
        "exclude same composition": options.exclude_same_composition,
        "predictor": networks.predictor.fingerprint,
        "plausibility": networks.plausibility.fingerprint,
        "symmetry prior": None if networks.symmetry is None else networks.symmetry.fingerprint,
    }
    file = JsonLines(options.out, full, "lists")
    done = set(file.read(lambda line: int(line["row"])))
    # in random order, so that a file that is not finished is a fair sample too
    rows = [row for row in np.random.default_rng(0).permutation(len(targets.crystals)).tolist() if row in samples]
    rows = rows[part::parts]
    missing = [row for row in rows if row not in done]
    with CountProgress(len(rows), len(rows) - len(missing), enabled=True, what="lists", of="targets") as bar:
        for row in missing:
            line = make(
                row,
                targets.crystals[row],
                samples[row],
                proposer,
                networks,
                proposals=options.proposals,
                exclude=options.exclude_same_composition,
            )
            file.append([line])
            bar.advance(1)


if __name__ == "__main__":
    main()
