"""The mean of two trainings that began as one: less noise than either has at a rate that is still high.

    cp -r runs/pool runs/pool-b    # once it has begun
    dao train pool-symmetric-small --out runs/pool
    dao train pool-symmetric-small --out runs/pool-b --resume --set seed=77
    python tools/merge_weights.py runs/pool/last runs/pool-b/last runs/pool-ab --shared 1719808

Two cores train two runs where one run has no use for a second core. ``--shared`` says how many crystals both saw before
they parted, so that the record counts none twice.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dao.errors import InputError
from dao.models import Generator


def merged(one: Generator, other: Generator, shared: int) -> Generator:
    """``one`` with the mean of both's parameters.

    Raises:
        InputError: of different networks or processes, or with different fitted scalers.

    """
    for section in ("network", "process", "symmetry"):
        if getattr(one.config, section) != getattr(other.config, section):
            raise InputError(f"the two have another {section} each")
    theirs, names = other.state_dict(), {name for name, _ in one.named_parameters()}
    state = one.state_dict()
    for name, value in state.items():
        if name in names:
            state[name] = (value + theirs[name]) / 2.0
        elif not torch.equal(value, theirs[name]):
            raise InputError(f"the two were not fitted to one training set: {name} differs")
    one.load_state_dict(state)
    one.config = replace(one.config, training=_record(one.config.training, other.config.training, shared))
    return one


def _record(one: dict[str, Any], other: dict[str, Any], shared: int) -> dict[str, Any]:
    seen = [record["crystals_seen"] for record in (one, other)]
    if not 0 <= shared <= min(seen):
        raise InputError(f"they cannot share {shared} crystals: one saw {min(seen)}")
    new = sum(seen) - shared
    of_both: dict[str, Any] = {
        name: round(one[name] + other[name] * (seen[1] - shared) / seen[1], 6)
        for name in ("hours", "cpu_hours", "epochs", "steps")
        if name in one and name in other
    }
    words = (
        f"mean of two runs that share their first {shared} crystals: to {seen[0]}, and in another order to {seen[1]}"
    )
    return {**one, **of_both, "crystals_seen": new, "merged": words}


def main() -> None:
    """Merge and say how many crystals are in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("one", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--shared", type=int, required=True, help="crystals that both saw before they parted")
    options = parser.parse_args()
    model = merged(Generator.load(options.one), Generator.load(options.other), options.shared)
    model.save(options.out)
    print(f"{options.out}: {model.config.training['merged']}")


if __name__ == "__main__":
    main()
