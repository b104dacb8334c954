"""How many of ten common compounds do the shipped weights find among 20 samples each? No weights know these by name.

Run: python benchmarks/common_compounds.py [--weights NAME|FOLDER] [--samples 20] [--seed 0] [--sources both]

A compound counts as found where a candidate matches the textbook structure (pymatgen's StructureMatcher at the
benchmark's tolerances), has its space group as `dao predict` prints it, and its volume to within 9.3 % (3 % a length).
"""

from __future__ import annotations

import argparse
import time

from pymatgen.core import Lattice, Structure

from dao import predict
from dao.evaluation.matching import matcher

MAX_VOLUME_RATIO = 1.03**3

Sites = tuple[list[str], list[list[float]]]


def _cubic(symbol: str, a: float, sites: Sites) -> Structure:
    return Structure.from_spacegroup(symbol, Lattice.cubic(a), *sites)


COMPOUNDS: dict[str, tuple[str, Structure]] = {
    # space group, textbook structure at room temperature (lengths in A)
    "SrTiO3": ("Pm-3m", _cubic("Pm-3m", 3.905, (["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]))),
    "NaCl": ("Fm-3m", _cubic("Fm-3m", 5.640, (["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))),
    "GaAs": ("F-43m", _cubic("F-43m", 5.653, (["Ga", "As"], [[0, 0, 0], [0.25, 0.25, 0.25]]))),
    "MgO": ("Fm-3m", _cubic("Fm-3m", 4.212, (["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]))),
    # origin choice 1, as pymatgen's operations of this group are
    "Cu2O": ("Pn-3m", _cubic("Pn-3m", 4.270, (["Cu", "O"], [[0.25, 0.25, 0.25], [0, 0, 0]]))),
    "CsCl": ("Pm-3m", _cubic("Pm-3m", 4.123, (["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]))),
    "CaF2": ("Fm-3m", _cubic("Fm-3m", 5.463, (["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]))),
    "Si": ("Fd-3m", _cubic("Fd-3m", 5.431, (["Si"], [[0, 0, 0]]))),
    "TiO2": (
        "P4_2/mnm",
        Structure.from_spacegroup(
            "P4_2/mnm", Lattice.tetragonal(4.594, 2.959), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]
        ),
    ),
    "ZnO": (
        "P6_3mc",
        Structure.from_spacegroup(
            "P6_3mc", Lattice.hexagonal(3.250, 5.207), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
        ),
    ),
}


SOURCES = {"generator": "generator", "both": "generator,prototypes"}


def find(
    formula: str, weights: str | None, samples: int, seed: int, sources: str = "generator"
) -> tuple[int, int, float] | None:
    """Rank of the right candidate, how many samples it had, and its volume over the textbook's; None if not there."""
    symbol, truth = COMPOUNDS[formula]
    for candidate in predict(formula, samples, weights=weights, seed=seed, sources=SOURCES[sources]):
        structure = candidate.structure
        ratio = (structure.volume / len(structure)) / (truth.volume / len(truth))
        right_volume = 1.0 / MAX_VOLUME_RATIO <= ratio <= MAX_VOLUME_RATIO
        if candidate.space_group == symbol and right_volume and matcher().fit(structure, truth):
            return candidate.rank, candidate.count, ratio
    return None


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights")
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sources", choices=SOURCES, default="generator", help="both: as dao predict does")
    options = parser.parse_args()
    found = 0
    print("formula  space group  found  rank  samples  V/V_textbook  seconds")
    for formula, (symbol, _) in COMPOUNDS.items():
        started = time.perf_counter()
        result = find(formula, options.weights, options.samples, options.seed, options.sources)
        seconds = time.perf_counter() - started
        found += result is not None
        rank, count, ratio = result or ("-", "-", float("nan"))
        mark = "yes" if result else "no"
        print(f"{formula:7}  {symbol:11}  {mark:5}  {rank!s:>4}  {count!s:>7}  {ratio:12.3f}  {seconds:7.1f}")
    print(f"{found} of {len(COMPOUNDS)} found within {options.samples} samples")


if __name__ == "__main__":
    main()
