"""Put trained weights on the shelf.

Run: python tools/ship_weights.py RUN/last NAME [--symmetry PRIOR/last] [--steps 20] [--float32]

Writes src/dao/weights/NAME/{model.safetensors (bfloat16 parameters), config.json}; the model card beside them is
written by hand, because its figures are measured on what ships, after this. A NAME with a slash is a folder anywhere.
``--symmetry`` gives a symmetric flow the prior (and its memory) that it samples by: the flow's training does not
depend on it, so both can be trained at the same time.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dao.models import Generator
from dao.symmetry_weights import load_symmetry
from dao.training.initial import copy_all_but_prior, give_symmetry
from dao.weight_files import WEIGHTS

SHELF = Path(__file__).resolve().parents[1] / "src" / "dao" / "weights"


def with_prior(flow: Generator, folder: Path) -> Generator:
    """The generator with a trained symmetry prior in place of its own, if any; the record says how that was trained."""
    prior, memory, record = load_symmetry(folder)
    training = {**flow.config.training, "symmetry": record}
    model = Generator(replace(flow.config, symmetry=prior.config, training=training))
    copy_all_but_prior(model, flow)
    give_symmetry(model, prior, memory)
    return model


def main() -> None:
    """Convert and say how large the result is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument("--symmetry", type=Path, help="folder of a trained symmetry prior")
    parser.add_argument("--steps", type=int, help="steps of the sampler, where other than in training")
    parser.add_argument("--float32", action="store_true", help="parameters as they were trained")
    options = parser.parse_args()
    model = Generator.load(options.source)
    if options.symmetry is not None:
        model = with_prior(model, options.symmetry)
    sampler = model.config.sampler if options.steps is None else model.config.sampler.updated(steps=options.steps)
    folder = Path(options.name) if "/" in options.name else SHELF / options.name
    model.config = replace(model.config, name=folder.name, sampler=sampler)
    model.save(folder, dtype=torch.float32 if options.float32 else torch.bfloat16)
    size = (folder / WEIGHTS).stat().st_size
    print(f"{folder}: {model.parameters_count:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
