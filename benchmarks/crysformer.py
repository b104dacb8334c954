"""Time and memory of the factored Crysformer against forms with explicit edge features.

Run: python benchmarks/crysformer.py [--blocks 3] [--atoms 416] [--repeats 6] [--precision bfloat16]

The paper's width, heads and frequencies; forward and backward; the same number of atoms in every batch. Two parts: one
attention layer with the edge geometry it needs (what factoring changes), and a trunk of several blocks, which makes the
edge geometry once and has feed-forward layers and gates besides, whose cost no form changes. Each measurement is a
process of its own: time is the smallest processor time of the repeats (the host's other guests do not count), memory
the growth of the peak resident set over the first step, which decides what fits.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SIZES = (8, 16, 32, 52)
FORMS = ("explicit", "lean", "factored")
TESTS = Path(__file__).resolve().parents[1] / "tests"

Step = Callable[[int, int], "Tensor"]


def trunk(form: str, blocks: int) -> Step:
    """Node features of the whole trunk for random crystals."""
    import crysformer_reference
    import torch

    from dao.networks.config import CrysformerConfig
    from dao.networks.crysformer import Crysformer

    model = Crysformer(CrysformerConfig(blocks=blocks))

    def forward(crystals: int, size: int) -> Tensor:
        numbers = torch.randint(1, 95, (crystals, size))
        coords = torch.rand(crystals, size, 3)
        lattice = 5.0 * torch.eye(3) + 0.5 * torch.randn(crystals, 3, 3)
        inputs = (numbers, coords, lattice, torch.randn(crystals, 6), torch.rand(crystals), numbers > 0)
        if form == "factored":
            return torch.as_tensor(model(*inputs)[0])
        return crysformer_reference.crysformer(model, *inputs, lean=form == "lean")[0]

    return forward


def attention(form: str) -> Step:
    """One attention layer, with the edge geometry that it needs."""
    import crysformer_reference
    import torch

    from dao.networks.config import CrysformerConfig
    from dao.networks.crysformer import Crysformer, InvariantAttention
    from dao.networks.edges import edge_geometry, gram_features

    config = CrysformerConfig(blocks=1)
    model = Crysformer(config)
    layer = next(module for module in model.modules() if isinstance(module, InvariantAttention))

    def forward(crystals: int, size: int) -> Tensor:
        coords = torch.rand(crystals, size, 3)
        lattice = 5.0 * torch.eye(3) + 0.5 * torch.randn(crystals, 3, 3)
        nodes = torch.randn(crystals, size, config.width, requires_grad=True)
        mask = torch.ones(crystals, size, dtype=torch.bool)
        if form == "factored":
            gram = gram_features(lattice, config.gram)
            geometry = edge_geometry(coords, gram, config.frequencies, model.edge_norm.eps)
            no_padding = torch.zeros(crystals, 1, 1, size)
            return torch.as_tensor(layer(nodes, geometry, model.edge_norm, no_padding))
        edges = crysformer_reference.edge_features(model, coords, lattice)
        return crysformer_reference.attention(layer, nodes, edges, mask, lean=form == "lean")

    return forward


PARTS = ("attention", "trunk")


def measure(part: str, form: str, size: int, options: argparse.Namespace) -> None:
    """Print seconds and MiB of one form at one size."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    forward = attention(form) if part == "attention" else trunk(form, options.blocks)

    def step(crystals: int) -> float:
        started = time.process_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=options.precision == "bfloat16"):
            loss = forward(crystals, size).float().square().mean()
        loss.backward()
        return time.process_time() - started

    step(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    crystals = options.atoms // size
    seconds = [step(crystals)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds += [step(crystals) for _ in range(options.repeats - 1)]
    print(json.dumps({"s": min(seconds), "MiB": (peak - before) / 1024}))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--atoms", type=int, default=416, help="atoms in every batch")
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32", help="bfloat16: autocast")
    parser.add_argument("--measure", nargs=3, metavar=("PART", "FORM", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    if options.measure:
        part, form, size = options.measure
        measure(part, form, int(size), options)
        return
    print(f"{platform.machine()}, torch {version('torch')}, one thread; width 384, 8 heads, 128 frequencies,")
    print(f"{options.atoms} atoms a batch, forward and backward, {options.precision}")
    print(f"attention: one layer with its edge geometry; trunk: {options.blocks} blocks")
    print("explicit: eq. 6 as written; lean: the same without keys and values of pairs; factored: what dao runs")
    for part in PARTS:
        for unit in ("s", "MiB"):
            print(f"\n{part:9}  " + "  ".join(f"{form + ' ' + unit:>12}" for form in FORMS) + "  explicit/f.  lean/f.")
            for size in SIZES:
                explicit, lean, factored = (_measured(part, form, size, options)[unit] for form in FORMS)
                print(
                    f"{size:3} atoms  {explicit:12.2f}  {lean:12.2f}  {factored:12.2f}"
                    f"  {explicit / factored:11.1f}  {lean / factored:7.1f}",
                    flush=True,
                )


_CACHE: dict[tuple[str, str, int], dict[str, float]] = {}


def _measured(part: str, form: str, size: int, options: argparse.Namespace) -> dict[str, float]:
    if (part, form, size) not in _CACHE:
        command = [sys.executable, __file__, "--measure", part, form, str(size)]
        command += [f"--{name}={getattr(options, name)}" for name in ("blocks", "atoms", "repeats", "precision")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        _CACHE[part, form, size] = json.loads(done.stdout)
    return _CACHE[part, form, size]


if __name__ == "__main__":
    main()
