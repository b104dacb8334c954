"""Put trained weights on the shelf.

Run: python tools/ship_weights.py RUN/best NAME

Writes src/dao/weights/NAME/{model.safetensors (bfloat16 parameters), config.json}; the model card beside them is
written by hand, because its figures are measured on what ships, after this.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from dao.models import Generator
from dao.weight_files import WEIGHTS

SHELF = Path(__file__).resolve().parents[1] / "src" / "dao" / "weights"


def main() -> None:
    """Convert and say how large the result is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("name")
    options = parser.parse_args()
    model = Generator.load(options.source)
    model.config = replace(model.config, name=options.name)
    model.save(SHELF / options.name, dtype=torch.bfloat16)
    size = (SHELF / options.name / WEIGHTS).stat().st_size
    print(f"{SHELF / options.name}: {model.parameters_count:,} parameters, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
