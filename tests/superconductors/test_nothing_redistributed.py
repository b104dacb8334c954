"""SuperCon3D's structures come from ICSD: none of them is in this repository, nor in what ships.

What is known here are the compositions alone, as hashes (``compositions.txt``: SHA-256 of the atomic numbers and
amounts of the smallest formula, 16 digits). Compositions are harmless, and shared: the Materials Project has a crystal
of about half of them, which is why tables of prototypes and memories of symmetry may name some. So this is looked at:

1. Files and texts of crystals in the repository: none is of such a composition (what tests build is textbook).
2. Tables and memories say that they are of open data. Had superconductors been among it, all of these compositions
   would be there, hydrides under pressure too. Where the data is at hand, volumes are compared as well: computed ones
   differ from measured ones by a few per cent, those of a table of SuperCon3D would by half a step of its grid.
3. What else ships are parameters and settings, which name no crystal of it.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from toys import toy

from dao.data.properties.superconductors import FILE, read_superconductors
from dao.data.sources import read_crystals
from dao.errors import InputError
from dao.prediction.prototype_table import PrototypeTable
from dao.prediction.sources import shipped_tables
from dao.superconductors.dataset import Key, composition_key
from dao.symmetry_weights import load_symmetry
from dao.weights import shipped

REPOSITORY = Path(__file__).resolve().parents[2]

CRYSTAL_FILE = re.compile(
    r"\.(cif|vasp|poscar|xyz|extxyz|parquet|db|csv|zip|gz|npz|npy|h5|hdf5|pkl)$|POSCAR|CONTCAR", re.IGNORECASE
)
CIF = re.compile(r"(?:data_\S*|_cell_length_[abc])[^\n]*\n.*?(?=\"\"\"|'''|```|\Z)", re.DOTALL)
EXTXYZ = re.compile(r"(\d{1,4})\s*\n[^\n]*Lattice=")

OPEN_DATA = {
    "pool": "pool-52-s05.parquet",
    "held-out": "mp_pool.parquet",
    "mp20": "mp20.parquet",
    "aflow": "pymatgen aflow_prototypes.json.gz",
}
"""What the tables are of: the Materials Project, and textbook structures."""

MOST_SHARED = 0.7
"""Share of SuperCon3D's compositions that a table of other crystals may have: 0.57 of the pool, 1 of SuperCon3D."""

MOST_EQUAL = 0.6
"""Share of them whose volume is measured to within the table's grid: 0.31 of the pool, 1 of SuperCon3D."""


def hashed(key: Key) -> str:
    text = "dao superconductors " + " ".join(f"{number}:{amount}" for number, amount in sorted(key))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def compositions() -> frozenset[str]:
    return frozenset((Path(__file__).parent / "compositions.txt").read_text().split())


def is_listed(counts: Mapping[int, int]) -> bool:
    return hashed(composition_key(counts)) in compositions()


def files_of(folder: Path) -> list[Path]:
    """What git knows; where there is no git, whatever is not hidden."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=folder, capture_output=True, text=True, check=False)  # noqa: S607
    if done.returncode == 0 and done.stdout:
        return [folder / name for name in done.stdout.split("\0") if name]
    inner = (path for path in folder.rglob("*") if path.is_file())
    return [path for path in inner if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def listed_crystals(files: Iterable[Path], scratch: Path) -> Iterator[str]:
    """Each crystal of a listed composition, in a file of crystals or written out in a text."""
    for path in files:
        if not path.is_file():
            continue
        if CRYSTAL_FILE.search(path.name):
            yield from (f"{path}: {text}" for text in _listed_in(path))
        raw = path.read_bytes()
        if b"\0" in raw[:4096] or not any(word in raw for word in (b"_cell_length_a", b"Lattice=")):
            continue
        text = raw.decode("utf-8", "replace")
        if path.suffix == ".ipynb":
            text = "\n".join(_texts(json.loads(text)))
        fragments = [(match.group(), ".cif") for match in CIF.finditer(text)]
        for match in EXTXYZ.finditer(text):
            lines = text[match.start() :].split("\n")[: int(match.group(1)) + 2]
            fragments.append(("\n".join(lines) + "\n", ".extxyz"))
        for fragment, suffix in fragments:
            part = scratch / f"fragment{suffix}"
            part.write_text(fragment, encoding="utf-8")
            yield from (f"{path}: {text}" for text in _listed_in(part))


def _texts(value: Any) -> list[str]:
    """All texts of a notebook; one may be a list of its lines."""
    if isinstance(value, list):
        return (
            ["".join(value)]
            if all(isinstance(one, str) for one in value)
            else [t for one in value for t in _texts(one)]
        )
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _listed_in(path: Path) -> list[str]:
    try:
        return [one.reduced_formula for one in read_crystals(path) if is_listed(one.counts)]
    except InputError:
        return []


@pytest.mark.filterwarnings("ignore")  # of pymatgen, on what is no CIF
def test_no_file_or_text_holds_a_superconductor(tmp_path: Path) -> None:
    found = list(listed_crystals(files_of(REPOSITORY), tmp_path))
    assert not found


@pytest.mark.filterwarnings("ignore")
def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    """A crystal of a listed composition, TiRu, is planted in all ways that the search knows; rock salt is not one."""
    (tmp_path / "scratch").mkdir()
    for crystal, count in ((toy("cscl", ("Ti", "Ru"), 3.0), 7), (toy("rocksalt", ("Na", "Cl"), 5.64), 0)):
        folder = tmp_path / crystal.reduced_formula
        folder.mkdir()
        structure = crystal.to_structure()
        cif = str(structure.to(fmt="cif"))
        (folder / "one.cif").write_text(cif)
        (folder / "POSCAR-001").write_text(str(structure.to(fmt="poscar")))
        (folder / "test_it.py").write_text(f'CIF = """\\\n{cif}"""\n')
        (folder / "page.md").write_text(f"See\n```\n{cif}\n```\nand more\n")
        lines = cif.splitlines(keepends=True)
        (folder / "notebook.ipynb").write_text(json.dumps({"cells": [{"output": {"text": lines}}, {"source": []}]}))
        ase.io.write(folder / "frames.extxyz", [crystal.to_atoms()] * 2)
        (folder / "frames.toml").write_text(f'frames = """\n{(folder / "frames.extxyz").read_text()}"""\n')
        files = sorted(folder.iterdir())
        found = list(listed_crystals(files, tmp_path / "scratch"))
        assert len({text.split(":")[0] for text in found}) == count, found


def table_crystals(table: PrototypeTable) -> Iterator[tuple[Key, int, float]]:
    """Composition, atoms in the cell and volume per atom (A^3) of every element set of a table."""
    arrays, position = table.arrays, 0
    firsts = (arrays["slot_first"], arrays["set_first"])
    for place in range(len(table)):
        (slot, slot_end), (one, end) = ((first[place], first[place + 1]) for first in firsts)
        amounts = arrays["amounts"][slot:slot_end].tolist()
        for row in range(one, end):
            elements = arrays["elements"][position : position + len(amounts)].tolist()
            position += len(amounts)
            counts: Counter[int] = Counter()
            for element, amount in zip(elements, amounts, strict=True):
                counts[element] += amount
            volume = sum(table.atomic_volumes[element] * amount for element, amount in counts.items())
            atoms = counts.total()
            yield composition_key(counts), atoms, float(volume) / atoms * float(arrays["volume_ratio"][row])


def test_tables_are_of_open_data() -> None:
    assert set(OPEN_DATA) == set(shipped_tables())
    for name, path in shipped_tables().items():
        table = PrototypeTable.load(path)
        assert table.record["source"] == OPEN_DATA[name]
        found = {hashed(key) for key, _, _ in table_crystals(table)} & compositions()
        assert len(found) < MOST_SHARED * len(compositions()), name


def test_memories_of_symmetry_are_of_open_data() -> None:
    for name, folder in shipped().items():
        config = json.loads((folder / "config.json").read_text())
        if config["model"] != "generator":
            continue
        _, memory, record = load_symmetry(str(folder))
        assert record["data"].split(",")[0] in {"mp20.parquet", "pool-52-s05-stable.parquet"}, name
        found = {hashed(composition_key(label.composition())) for label in memory.labels} & compositions()
        assert 0 < len(found) < MOST_SHARED * len(compositions()), name


def test_volumes_of_tables_are_not_measured_ones(data_dir: Path) -> None:
    if not (data_dir / FILE).exists():
        pytest.skip(f"needs {FILE} in {data_dir}")
    known = read_superconductors(data_dir / FILE)
    measured: dict[tuple[Key, int], float] = {}
    for row in range(len(known)):
        crystal = known.crystal(row)
        measured[composition_key(crystal.counts), crystal.num_atoms] = crystal.volume_per_atom
    assert {hashed(key) for key, _ in measured} == compositions()
    for name, path in shipped_tables().items():
        table = PrototypeTable.load(path)
        nearest: dict[tuple[Key, int], float] = {}
        for key, atoms, volume in table_crystals(table):
            if (key, atoms) in measured:
                difference = abs(math.log(volume / measured[key, atoms]))
                nearest[key, atoms] = min(difference, nearest.get((key, atoms), math.inf))
        half_a_step = 0.5 * table.record["grid"]["volume_step"]
        if len(nearest) > 50:  # of the textbook structures there are 13
            assert np.mean([one <= half_a_step for one in nearest.values()]) < MOST_EQUAL, name


def test_nothing_that_ships_names_its_crystals() -> None:
    shelf = REPOSITORY / "src" / "dao"
    for path in files_of(REPOSITORY):
        if path.is_relative_to(shelf) and path.suffix in {".json", ".safetensors"} and path.is_file():
            assert not re.search(rb"supercon3d-\d|icsd-?\d", path.read_bytes()), path
