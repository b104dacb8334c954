"""Put trained weights on the shelf.

Run: python tools/ship_weights.py RUN/last NAME [--symmetry PRIOR/last] [--steps 20] [--float32]
     python tools/ship_weights.py RUN/last predictor --calibrate mp20.parquet --calibrate mpts52.parquet

Writes src/dao/weights/NAME/{model.safetensors (bfloat16 parameters), config.json}; the model card beside them is
written by hand, because its figures are measured on what ships, after this. A NAME with a slash is a folder anywhere.
``--symmetry`` gives a symmetric flow the prior (and its memory) that it samples by: the flow's training does not
depend on it, so both can be trained at the same time. ``--further-memory`` lets that prior ask another one's memory,
too. ``--free-probability``, ``--subgroup-probability``, ``--temperature``, ``--volume-noise``, ``--shape-noise`` and
``--walks`` are the sampler's settings.
``--calibrate`` fits the factor of a predictor's expected errors on the validation splits of those files: crystals it
was trained on are known too well to say how far off it is elsewhere.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dao.data.training_set import load_packed
from dao.errors import InputError
from dao.models import MODELS, Generator, Predictor, read_config
from dao.symmetry_weights import load_symmetry
from dao.training.initial import copy_all_but, give_symmetry
from dao.weight_files import WEIGHTS

BATCH = 256
SHELF = Path(__file__).resolve().parents[1] / "src" / "dao" / "weights"


def with_prior(flow: Generator, folder: Path) -> Generator:
    """The generator with a trained symmetry prior in place of its own, if any; the record says how that was trained."""
    prior, memory, record = load_symmetry(folder)
    training = {**flow.config.training, "symmetry": record}
    model = Generator(replace(flow.config, symmetry=prior.config, training=training))
    copy_all_but(model, flow, ("symmetry_prior.",))
    give_symmetry(model, prior, memory)
    return model


@torch.no_grad()
def calibrated(model: Predictor, files: list[Path]) -> Predictor:
    """The predictor with expected errors that are right on average, over the labelled validation crystals of files."""
    expected, actual = 0.0, 0.0
    for path in files:
        label = model.config.label
        packed = load_packed(path, split="val", max_atoms=model.config.trust.max_atoms, labels=(label,))
        packed = packed.select(packed.labels[label].isfinite().nonzero()[:, 0])
        for rows in packed.num_atoms.argsort(stable=True).split(BATCH):
            batch = packed.batch(rows)
            energy, error = model.energy_and_error(batch)
            if error is None:
                raise InputError("this predictor says nothing of its errors")
            expected += float(error.double().sum()) / len(packed)
            actual += float((energy - batch.labels[label]).abs().double().sum()) / len(packed)
    model.config = replace(model.config, error_factor=model.config.error_factor * actual / expected)
    return model


def for_sampling(model: Generator, options: argparse.Namespace) -> Generator:
    """The generator with its prior and the settings of the sampler that it ships with."""
    if options.symmetry is not None:
        model = with_prior(model, options.symmetry)
    if options.further_memory is not None:
        if model.symmetry_memory is None:
            raise InputError("a further memory needs a prior that has one")
        further = load_symmetry(options.further_memory)[1]
        model.symmetry_memory = replace(model.symmetry_memory, further=replace(further, further=None))
    changes = {
        "steps": options.steps,
        "free_probability": options.free_probability,
        "subgroup_probability": options.subgroup_probability,
        "space_group_temperature": options.temperature,
        "volume_noise": options.volume_noise,
        "shape_noise": options.shape_noise,
        "walks": options.walks,
    }
    model.config = replace(model.config, sampler=model.config.sampler.updated(**changes))
    return model


def main() -> None:
    """Convert and say how large the result is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    parser.add_argument("--symmetry", type=Path, help="folder of a trained symmetry prior")
    parser.add_argument("--further-memory", type=Path, help="folder of weights whose prior's memory is asked besides")
    parser.add_argument("--free-probability", type=float, help="of what a sample without symmetry finds")
    parser.add_argument("--subgroup-probability", type=float, help="of what a sample with part of a symmetry finds")
    parser.add_argument("--temperature", type=float, help="at which samples share out symmetries")
    parser.add_argument("--volume-noise", type=float, help="of the cell's volume that samples start from")
    parser.add_argument("--shape-noise", type=float, help="of the cell's shape")
    parser.add_argument("--walks", type=int, help="of each sample, the likeliest of which is kept")
    parser.add_argument("--steps", type=int, help="steps of the sampler, where other than in training")
    parser.add_argument("--float32", action="store_true", help="parameters as they were trained")
    parser.add_argument("--calibrate", type=Path, action="append", default=[], help="file with a validation split")
    options = parser.parse_args()
    model = MODELS[read_config(options.source).model].load(options.source)
    if isinstance(model, Generator) and options.calibrate:
        parser.error("--calibrate is for predictors")
    given = {name for name, value in vars(options).items() if value is not None and value != parser.get_default(name)}
    if isinstance(model, Predictor) and (wrong := sorted(given - {"source", "name", "float32", "calibrate"})):
        parser.error(f"--{wrong[0].replace('_', '-')} is for generators")
    if isinstance(model, Generator):
        model = for_sampling(model, options)
    elif isinstance(model, Predictor) and options.calibrate:
        model = calibrated(model, options.calibrate)
        print(f"expected errors times {model.config.error_factor:.3f}")
    folder = Path(options.name) if "/" in options.name else SHELF / options.name
    model.config = replace(model.config, name=folder.name)
    model.save(folder, dtype=torch.float32 if options.float32 else torch.bfloat16)
    size = (folder / WEIGHTS).stat().st_size
    print(f"{folder}: {model.parameters_count:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
