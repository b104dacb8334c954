"""Stage II's training set: crystals not far above the hull, relaxed by a predictor (paper section 4.3.2).

Labels stay what they were: those of the crystal before it was relaxed. What the predictor says of it before and
after stands beside them, so that nothing in the file claims to be a computed energy that is none.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dao.batching import batches
from dao.constants import RELAXED_E_ABOVE_HULL, STABLE_E_ABOVE_HULL
from dao.crystal import Crystal
from dao.data.deduplicate_rows import ENERGY
from dao.data.labels import LABEL_SYMPREC
from dao.data.shards import in_cell, number
from dao.data.sources import read_parquet
from dao.data.sources.failures import reading
from dao.data.uniform import COLUMNS, as_parquet, file_hash
from dao.errors import InputError
from dao.geometry.cells import reduced, space_group
from dao.geometry.motion import rms_displacement, volume_change
from dao.jsonl import JsonLines
from dao.models import Predictor
from dao.prediction.energies import predict_energies
from dao.prediction.files import write_text
from dao.prediction.relaxed_report import RelaxedRow, Report, draw, markdown, report_of
from dao.progress import CountProgress
from dao.relaxation import RelaxationSettings, Relaxed, relax

BEFORE, AFTER = "e_above_hull_predicted_before", "e_above_hull_predicted"
"""Columns of the output, eV/atom by the predictor, null where a crystal was not relaxed."""

_AT_ONCE = 16384
"""Rows copied at a time."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which crystals are relaxed: ``above`` < e_above_hull <= ``up_to`` (eV/atom), at most ``max_atoms`` atoms.

    Raises:
        InputError: an empty range.

    """

    above: float = STABLE_E_ABOVE_HULL
    up_to: float = RELAXED_E_ABOVE_HULL
    max_atoms: int | None = None

    def __post_init__(self) -> None:
        """Check the range."""
        if not self.above < self.up_to:
            raise InputError(f"nothing is above {self.above:g} and at most {self.up_to:g} eV/atom")

    def has(self, energy: float, num_atoms: int) -> bool:
        """Whether a crystal of that label and size is one."""
        # labels are stored as float32, in which 0.3 is more than 0.3
        in_range = self.above < round(energy, 6) <= self.up_to
        return in_range and (self.max_atoms is None or num_atoms <= self.max_atoms)


@dataclass(frozen=True)
class Chosen:
    """A crystal to be relaxed: its row in the source, from 0, and its label, eV/atom."""

    row: int
    energy: float
    crystal: Crystal


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A crystal that could not be relaxed."""

    row: int
    id: str
    reason: str


def choose(path: Path, selection: Selection) -> list[Chosen]:
    """The crystals of a Parquet file to be relaxed, in its order.

    Raises:
        InputError: unreadable, a malformed row, a missing column, or no such crystal.

    """
    chosen = []
    for row, crystal in enumerate(read_parquet(path, columns=[ENERGY])):
        energy = number(crystal.info[ENERGY])
        if energy is not None and selection.has(energy, crystal.num_atoms):
            chosen.append(Chosen(row, energy, crystal))
    if not chosen:
        few = "" if selection.max_atoms is None else f" and at most {selection.max_atoms} atoms"
        raise InputError(f"{path}: no crystal with {selection.above:g} < {ENERGY} <= {selection.up_to:g} eV/atom{few}")
    return chosen


def relax_set(
    model: Predictor,
    source: Path,
    out: Path,
    *,
    selection: Selection,
    settings: RelaxationSettings,
    keep_rest: bool = False,
    figure: Path | None = None,
    work: Path | None = None,
    batch_size: int | None = None,
    progress: bool = False,
) -> tuple[Report, list[Failure]]:
    """Relax the crystals of a data set that the selection has, and write them in its layout, in its order.

    They are relaxed in primitive Niggli cells, and written in such, which is another one where the relaxed cell is none
    any more. Energies are of the cells that are written; a crystal whose energy is not lower in its new cell stays as
    it was, and so does one that cannot be relaxed. Beside ``out`` lie the report (``.json``, ``.md``) and, where there
    are any, the failures (``.failures.json``). Each is whole or not there, ``out`` comes last, and the same command
    goes on where it was stopped, to the same files.

    Args:
        model: whose energy above the hull is lowered.
        source: whatever :func:`dao.data.uniform.as_parquet` knows, with labels ``e_above_hull``.
        out: the Parquet file to write.
        selection: which crystals are relaxed.
        settings: the paper's are the defaults.
        keep_rest: write all other crystals of the source too, as they are.
        figure: where to draw the fall of the energies (paper Figure 3c), ``something.png``.
        work: folder for what is finished, which stays; by default one beside ``out`` that is removed in the end.
        batch_size: crystals a batch; by number of atoms if not given.
        progress: show a bar on stderr.

    Raises:
        InputError: unreadable or malformed data, no crystal to relax, a predictor of another label, a file that was
            relaxed before, relaxations in ``work`` made by something else, or a folder that cannot be written.

    """
    if model.config.label != ENERGY:
        raise InputError(f"these weights predict {model.config.label!r}, and {ENERGY!r} is needed")
    folder = out.with_name(f"{out.name}.work") if work is None else work
    with as_parquet(source) as path:
        _check_columns(path, source)
        chosen = choose(path, selection)
        settings_made_by = {"selection": asdict(selection), "settings": asdict(settings)}
        made_by = {"weights": model.fingerprint, "source": file_hash(path), **settings_made_by}
        lines = JsonLines(folder / "relaxed.jsonl", made_by, "relaxed crystals")
        done = {one.row: one for one in lines.read(_parsed)}

        def keep(made: Sequence[RelaxedRow | Failure]) -> None:
            lines.append(asdict(one) for one in made)
            done.update({one.row: one for one in made})

        _relax(model, chosen, settings, batch_size, done, keep, progress=progress)
        relaxed = {row: one for row, one in done.items() if isinstance(one, RelaxedRow)}
        failures = [one for _, one in sorted(done.items()) if isinstance(one, Failure)]
        rows = pq.ParquetFile(path).metadata.num_rows
        report = report_of(
            [relaxed[row] for row in sorted(relaxed)],
            settings={"source": str(source), "weights": f"{model.config.name} {model.fingerprint}", **settings_made_by},
            limits=(selection.above, selection.up_to),
            rows_in=rows,
            selected=len(chosen),
            rows_out=rows if keep_rest else len(chosen),
        )
        _write(path, out, figure, report, failures, relaxed, None if keep_rest else set(done))
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    return report, failures


def _check_columns(path: Path, source: Path) -> None:
    with reading(str(source)):
        present = pq.read_schema(path).names
    missing = [name for name in (*COLUMNS, ENERGY) if name not in present]
    if missing:
        raise InputError(f"{source}: no column {missing[0]!r}")
    if BEFORE in present or AFTER in present:
        raise InputError(f"{source}: has a column {AFTER!r}: it was relaxed before")


def _parsed(line: dict[str, Any]) -> RelaxedRow | Failure:
    return Failure(**line) if "reason" in line else RelaxedRow(**line)


def _relax(
    model: Predictor,
    chosen: Sequence[Chosen],
    settings: RelaxationSettings,
    batch_size: int | None,
    done: Mapping[int, RelaxedRow | Failure],
    keep: Callable[[Sequence[RelaxedRow | Failure]], None],
    *,
    progress: bool,
) -> None:
    """Relax what is not done. Batches are those of an unbroken run: others would give other roundings."""
    with CountProgress(len(chosen), len(done), enabled=progress, what="relaxing", of="crystals") as bar:
        for places in batches([one.crystal for one in chosen], batch_size):
            batch = [chosen[i] for i in places]
            if all(one.row in done for one in batch):
                continue
            made = [one for one in _relaxed(model, batch, settings) if one.row not in done]
            keep(made)
            bar.advance(len(made))


def _relaxed(model: Predictor, batch: Sequence[Chosen], settings: RelaxationSettings) -> list[RelaxedRow | Failure]:
    starts: dict[int, Crystal] = {}
    made: dict[int, RelaxedRow | Failure] = {}
    for one in batch:
        try:
            one.crystal.validate()
            starts[one.row] = reduced(one.crystal)
        except InputError as error:
            made[one.row] = Failure(row=one.row, id=one.crystal.name, reason=str(error))
    found = dict(zip(starts, relax(model, list(starts.values()), settings, batch_size=len(batch)), strict=True))
    ends: dict[int, Crystal] = {}
    for row, relaxed in found.items():
        if not (math.isfinite(relaxed.energy_before) and math.isfinite(relaxed.energy)):
            made[row] = Failure(row=row, id=starts[row].name, reason=f"{starts[row].name}: its energy is not finite")
            continue
        try:
            ends[row] = reduced(relaxed.crystal)
        except InputError as error:
            made[row] = Failure(row=row, id=starts[row].name, reason=str(error))
    # of the cells that are written: to the predictor, the same crystal in another cell is another crystal
    energies = dict(zip(ends, predict_energies(model, list(ends.values()), batch_size=len(batch)), strict=True))
    for one in batch:
        if one.row in ends:
            made[one.row] = _row(one, starts[one.row], found[one.row], ends[one.row], energies[one.row])
    return [made[one.row] for one in batch]


def _row(one: Chosen, start: Crystal, relaxed: Relaxed, end: Crystal, energy: float) -> RelaxedRow:
    before = relaxed.energy_before / start.num_atoms
    lower = energy < before
    moved, written = (relaxed.crystal, end) if lower else (start, start)
    return RelaxedRow(
        row=one.row,
        e_above_hull=one.energy,
        before=before,
        after=energy if lower else before,
        displacement=rms_displacement(start, moved),
        volume_change=volume_change(start, moved),
        same_space_group=_space_group(start) == _space_group(written),
        new_cell=written is not moved,
        outcome=relaxed.outcome if lower else "not lower",
        atomic_numbers=written.atomic_numbers.tolist(),
        frac_coords=in_cell(written).tolist(),
        lattice=written.lattice.ravel().tolist(),
    )


def _space_group(crystal: Crystal) -> int:
    try:
        return space_group(crystal, LABEL_SYMPREC)[0]
    except InputError:
        return 0


def _write(
    path: Path,
    out: Path,
    figure: Path | None,
    report: Report,
    failures: Sequence[Failure],
    relaxed: Mapping[int, RelaxedRow],
    only: set[int] | None,
) -> None:
    part = out.with_name(f".{out.name}.part")
    failed = out.with_suffix(".failures.json")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write_parquet(path, part, relaxed, only)
        if failures:
            write_text(failed, json.dumps([asdict(one) for one in failures], indent=1) + "\n")
        else:
            failed.unlink(missing_ok=True)
        write_text(out.with_suffix(".json"), json.dumps(asdict(report), indent=2) + "\n")
        write_text(out.with_suffix(".md"), markdown(report))
        if figure is not None:
            draw(report, figure)
        part.replace(out)
    except OSError as error:
        raise InputError(f"{out.parent}: cannot be written ({error.strerror})") from None
    finally:
        part.unlink(missing_ok=True)


def _write_parquet(path: Path, part: Path, relaxed: Mapping[int, RelaxedRow], only: set[int] | None) -> None:
    """Copy the rows (``only`` some, or all), the relaxed ones with their new cells."""
    parquet = pq.ParquetFile(path)
    schema = parquet.schema_arrow.append(pa.field(BEFORE, pa.float32())).append(pa.field(AFTER, pa.float32()))
    first = 0
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for batch in parquet.iter_batches(batch_size=_AT_ONCE):
            kept = [row for row in range(batch.num_rows) if only is None or first + row in only]
            found = {row: relaxed[first + row] for row in kept if first + row in relaxed}
            writer.write_batch(_replaced(batch, kept, found, schema))
            first += batch.num_rows


def _replaced(batch: pa.RecordBatch, kept: Sequence[int], found: Mapping[int, RelaxedRow], schema: pa.Schema) -> Any:  # noqa: ANN401 -- pyarrow has no types
    """Some rows of a batch, and of those that were found, what was found."""
    values: dict[str, list[Any]] = {
        "atomic_numbers": [one.atomic_numbers for one in found.values()],
        "frac_coords": [one.frac_coords for one in found.values()],
        "lattice": [one.lattice for one in found.values()],
        "num_atoms": [len(one.atomic_numbers) for one in found.values()],
    }
    # new values are put behind the old ones, and each row takes from where its own stands
    place = {row: batch.num_rows + i for i, row in enumerate(found)}
    old = pa.array(kept, pa.int64())
    new = pa.array([place.get(row, row) for row in kept], pa.int64())
    columns = []
    for field in batch.schema:
        column = batch.column(field.name)
        if field.name in values:
            column = pa.concat_arrays([column, pa.array(values[field.name], field.type)])
        columns.append(column.take(new if field.name in values else old))
    columns.append(pa.array([found[row].before if row in found else None for row in kept], pa.float32()))
    columns.append(pa.array([found[row].after if row in found else None for row in kept], pa.float32()))
    return pa.record_batch(columns, schema=schema)
