"""Time and memory of the factored Crysformer against the form with explicit edge features.

Run: python benchmarks/crysformer.py [--blocks 3] [--atoms 416] [--repeats 4]

The paper's width, heads and frequencies; forward and backward in float32; the same number of atoms in every batch. Each
measurement is a process of its own: time is the smallest processor time of the repeats (the host's other guests do not
count), memory the growth of the peak resident set from before the first step, which is what decides whether it fits.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

SIZES = (8, 16, 32, 52)
TESTS = Path(__file__).resolve().parents[1] / "tests"


def measure(form: str, size: int, blocks: int, atoms: int, repeats: int) -> None:
    """Print seconds and MiB of one form at one size."""
    import torch

    sys.path.insert(0, str(TESTS))
    import crysformer_reference

    from dao.networks.config import CrysformerConfig
    from dao.networks.crysformer import Crysformer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = Crysformer(CrysformerConfig(blocks=blocks))

    def step(crystals: int, size: int) -> float:
        coords = torch.rand(crystals, size, 3)
        lattice = 5.0 * torch.eye(3) + 0.5 * torch.randn(crystals, 3, 3)
        numbers = torch.randint(1, 95, (crystals, size))
        inputs = (numbers, coords, lattice, torch.randn(crystals, 6), torch.rand(crystals), numbers > 0)
        model.zero_grad()
        started = time.process_time()
        nodes, _ = model(*inputs) if form == "factored" else crysformer_reference.crysformer(model, *inputs)
        nodes.square().mean().backward()
        return time.process_time() - started

    step(1, 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = [step(atoms // size, size)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds += [step(atoms // size, size) for _ in range(repeats - 1)]
    print(json.dumps({"seconds": min(seconds), "mib": (peak - before) / 1024, "torch": torch.__version__}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--atoms", type=int, default=416, help="atoms in every batch")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--measure", nargs=2, metavar=("FORM", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], int(options.measure[1]), options.blocks, options.atoms, options.repeats)
        return
    rows = []
    for size in SIZES:
        results = []
        for form in ("explicit", "factored"):
            command = [sys.executable, __file__, "--measure", form, str(size)]
            command += [f"--{name}={getattr(options, name)}" for name in ("blocks", "atoms", "repeats")]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            results.append(json.loads(done.stdout))
        rows.append((size, *results))
    print(f"torch {rows[0][1]['torch']}, {platform.machine()}, one thread; width 384, 8 heads, 128 frequencies,")
    print(f"{options.blocks} blocks, {options.atoms} atoms a batch, forward and backward, float32")
    print("atoms  explicit s  factored s  faster  explicit MiB  factored MiB  memory")
    for size, explicit, factored in rows:
        faster, memory = explicit["seconds"] / factored["seconds"], factored["mib"] / explicit["mib"]
        print(
            f"{size:5}  {explicit['seconds']:10.2f}  {factored['seconds']:10.2f}  {faster:5.1f}x"
            f"  {explicit['mib']:12.0f}  {factored['mib']:12.0f}  {memory:6.2f}"
        )


if __name__ == "__main__":
    main()
