"""Train the symmetry prior on a file of labels, and measure it on MP-20 validation compositions.

Run: python benchmarks/symmetry_prior.py LABELS --out FOLDER [--source mp20|pool] [--epochs 5] [--without-neighbours]

LABELS is JSON lines: source, split, space_group, orbits. Trained on the source's crystals (of mp20: split train), each
seeing its neighbours among the others; measured on mp20's split val. Writes prior.safetensors and prior.json.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional

from dao.data.locate import training_file
from dao.data.store import read_packed
from dao.data.symmetry_batch import NO_NEIGHBOURS, SymmetryBatch, SymmetryLabel, symmetry_batch, symmetry_sequence
from dao.data.symmetry_memory import SymmetryMemory
from dao.element_distances import element_distances
from dao.geometry.lattice import fit_atomic_volumes, volume
from dao.networks.symmetry import SymmetryPrior
from dao.networks.symmetry_config import SymmetryPriorConfig
from dao.networks.symmetry_search import propose

TRIES = (1, 5, 20)
WARMUP = 200


def read_labels(path: Path, source: str, split: str) -> list[SymmetryLabel]:
    with path.open(encoding="utf-8") as lines:
        rows = [row for row in map(json.loads, lines) if (row["source"], row["split"]) == (source, split)]
    return [SymmetryLabel(row["space_group"], tuple((z, letter) for z, letter in row["orbits"])) for row in rows]


def distances() -> np.ndarray[Any, np.dtype[np.float32]]:
    packed = read_packed(training_file("mp20.parquet", None), split="train")
    volumes = fit_atomic_volumes(packed.element_counts(), volume(packed.lattice.double())).numpy()
    return element_distances(volumes).astype(np.float32)


def sequences(labels: list[SymmetryLabel], memory: SymmetryMemory | None, *, known: bool) -> SymmetryBatch:
    """All labels as one batch; those that are ``known`` to the memory do not see themselves there."""
    made = []
    for row, label in enumerate(labels):
        near = NO_NEIGHBOURS
        if memory is not None:
            near = memory.neighbours(label.composition(), exclude=row if known else None)
        made.append(symmetry_sequence(label, near))
    return symmetry_batch(made)


def batches(data: SymmetryBatch, size: int, random: np.random.Generator) -> Iterator[SymmetryBatch]:
    """One epoch in random order, sequences of like length together."""
    order = random.permutation(len(data))
    lengths = (data.letters >= 0).sum(1).numpy()
    made = []
    for chunk in np.array_split(order, max(1, len(order) // (16 * size))):
        by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
        made += [by_length[i : i + size] for i in range(0, len(by_length), size)]
    for i in random.permutation(len(made)):
        yield data.rows(torch.from_numpy(made[i]))


@torch.no_grad()
def teacher_forced(model: SymmetryPrior, data: SymmetryBatch) -> dict[str, float]:
    """Mean negative log probability of both parts, and how often the group is among the first 1, 5 and 20."""
    model.eval()
    ranks, losses = [], []
    for index in torch.argsort((data.letters >= 0).sum(1)).split(512):
        batch = data.rows(index)
        groups, _ = model(batch)
        ranks.append((groups > groups.gather(1, batch.space_group[:, None])).sum(1))
        losses.append(-torch.stack(model.log_probability(batch), dim=1))
    model.train()
    group, orbits = torch.cat(losses).mean(0).tolist()
    rank = torch.cat(ranks)
    figures = {f"group_top{count}": float((rank < count).float().mean()) for count in TRIES}
    return {"group_nll": group, "orbits_nll": orbits, **figures}


def searched(model: SymmetryPrior, labels: list[SymmetryLabel], memory: SymmetryMemory | None) -> dict[str, float]:
    """How often the whole assignment is among the first 1, 5 and 20, and milliseconds a composition."""
    model.eval()
    hits = dict.fromkeys(TRIES, 0)
    started = time.process_time()
    for i in range(0, len(labels), 16):
        some = labels[i : i + 16]
        for label, found in zip(some, propose(model, [one.composition() for one in some], 20, memory), strict=True):
            for count in TRIES:
                hits[count] += any(
                    (one.space_group, one.orbits) == (label.space_group, label.orbits) for one in found[:count]
                )
    spent = time.process_time() - started
    figures = {f"assignment_top{count}": hit / len(labels) for count, hit in hits.items()}
    return {**figures, "ms": 1000.0 * spent / len(labels), "searched": len(labels)}


def train(model: SymmetryPrior, data: SymmetryBatch, options: argparse.Namespace) -> float:
    """Train by AdamW with a cosine schedule; hours of processor time."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
    steps = max(1, round(options.epochs * len(data) / options.batch))
    random, step, started = np.random.default_rng(options.seed), 0, time.process_time()
    model.train()
    while step < steps:
        for batch in batches(data, options.batch, random):
            cosine = 0.5 * (1.0 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = options.learning_rate * min(1.0, (step + 1) / WARMUP) * (0.01 + 0.99 * cosine)
            with torch.autocast("cpu", torch.bfloat16):
                group_logits, position_logits = model(batch)
            loss = functional.cross_entropy(group_logits, batch.space_group)
            # padding has one choice, whose loss is 0
            loss = loss + functional.cross_entropy(
                position_logits.flatten(0, 1), batch.letters.clamp_min(0).flatten(), reduction="sum"
            ) / len(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            if step % 200 == 0:
                print(f"{step}/{steps}  {time.process_time() - started:.0f} s  loss {float(loss):.3f}", flush=True)
            if step == steps:
                break
    return (time.process_time() - started) / 3600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--source", choices=("mp20", "pool"), default="mp20")
    parser.add_argument("--epochs", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=96)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropout", type=float, default=0.05)
    parser.add_argument("--element-dropout", type=float, default=0.1)
    parser.add_argument("--without-neighbours", action="store_true")
    parser.add_argument("--search", type=int, default=1000, help="validation compositions that are searched")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    known = read_labels(options.labels, options.source, "train" if options.source == "mp20" else "")
    validation = read_labels(options.labels, "mp20", "val")
    memory = None if options.without_neighbours else SymmetryMemory.build(known, distances())
    data = sequences(known, memory, known=True)
    config = SymmetryPriorConfig(dropout=options.dropout, element_dropout=options.element_dropout)
    model = SymmetryPrior(config)
    hours = train(model, data, options)
    figures = teacher_forced(model, sequences(validation, memory, known=False))
    chosen = np.random.default_rng(0).permutation(len(validation))[: options.search]
    figures |= searched(model, [validation[i] for i in chosen], memory)
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: value.contiguous() for name, value in model.state_dict().items()}, options.out / "prior.safetensors"
    )
    record = {"config": asdict(config), "crystals": len(known), "cpu_hours": hours, "validation": figures}
    settings = {name: str(value) for name, value in vars(options).items()}
    (options.out / "prior.json").write_text(
        json.dumps(record | {"options": settings}, indent=2) + "\n", encoding="utf-8"
    )
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
