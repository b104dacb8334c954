from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from dao.data.symmetry_batch import NO_NEIGHBOURS, SymmetryLabel
from dao.data.symmetry_memory import SymmetryMemory
from dao.errors import InputError

ROCK_SALT = SymmetryLabel(225, ((11, "a"), (17, "b")))
CAESIUM_CHLORIDE = SymmetryLabel(221, ((17, "a"), (55, "b")))
FLUORITE = SymmetryLabel(225, ((9, "c"), (20, "a")))


@pytest.fixture
def memory() -> SymmetryMemory:
    numbers = np.arange(95, dtype=np.float32)
    return SymmetryMemory.build([ROCK_SALT, CAESIUM_CHLORIDE, FLUORITE], np.abs(numbers[:, None] - numbers))


def test_the_nearest_come_first_with_elements_exchanged(memory: SymmetryMemory) -> None:
    near = memory.neighbours({12: 1, 16: 1})
    # Na -> Mg and Cl -> S, then the other way round; either way the origin is chosen so that a comes first
    assert near.space_groups[:2] == (225, 225)
    assert near.distances[:2] == (1.0, 5.0)
    assert near.letters[:2] == ((0, 1), (0, 1))
    assert near.space_groups[2:] == (221, 221)
    assert list(near.distances) == sorted(near.distances)


def test_only_cells_of_the_same_counts_are_compared(memory: SymmetryMemory) -> None:
    assert memory.neighbours({9: 2, 20: 1}).letters == ((2, 0),)
    assert memory.neighbours({9: 3, 20: 1}).space_groups == ()


def test_a_crystal_can_be_left_out(memory: SymmetryMemory) -> None:
    assert memory.neighbours(ROCK_SALT.composition()).distances[0] == 0.0
    assert set(memory.neighbours(ROCK_SALT.composition(), exclude=0).space_groups) == {221}
    assert memory.neighbours(FLUORITE.composition(), exclude=2).space_groups == ()


def test_a_file_holds_each_assignment_once(memory: SymmetryMemory) -> None:
    twice = SymmetryMemory.build([FLUORITE, ROCK_SALT, CAESIUM_CHLORIDE, ROCK_SALT], memory.distances)
    tensors, same = memory.to_tensors(), twice.to_tensors()
    assert all(torch.equal(tensors[name], same[name]) for name in tensors.keys() | same.keys())
    read = SymmetryMemory.from_tensors(tensors)
    assert sorted(read.labels, key=repr) == sorted(memory.labels, key=repr)
    for composition in ({12: 1, 16: 1}, {9: 2, 20: 1}, {9: 3, 20: 1}):
        assert read.neighbours(composition) == memory.neighbours(composition)


def test_an_empty_memory(memory: SymmetryMemory) -> None:
    empty = SymmetryMemory.from_tensors(SymmetryMemory.build([], memory.distances).to_tensors())
    assert empty.neighbours({12: 1, 16: 1}) == NO_NEIGHBOURS


def changed(tensor: torch.Tensor, index: int | tuple[int, int], value: float) -> torch.Tensor:
    other = tensor.clone()
    other[index] = value
    return other


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("letters", lambda x: x, "tensor 'letters' is unknown"),
        ("offsets", None, "tensor 'offsets' is missing"),
        ("offsets", lambda x: x.long(), "'offsets' must be torch.int32 with 1 axes"),
        ("offsets", lambda x: x[:0], "'offsets' must be one longer"),
        ("offsets", lambda x: changed(x, 0, 1), "offsets do not divide the orbits"),
        ("offsets", lambda x: changed(x, 1, 7), "offsets do not divide the orbits"),
        ("offsets", lambda x: changed(x, 1, 0), "offsets do not divide the orbits"),
        ("offsets", lambda x: changed(x, -1, 2**31 - 1), "offsets do not divide the orbits"),
        ("space_groups", lambda x: x[:, None], "'space_groups' must be torch.uint8 with 1 axes"),
        ("space_groups", lambda x: changed(x, 0, 0), "a space group is outside 1 to 230"),
        ("space_groups", lambda x: changed(x, 0, 231), "a space group is outside 1 to 230"),
        ("elements", lambda x: x[1:], "'elements' and 'positions' must be of one length"),
        ("elements", lambda x: changed(x, 0, 0), "an element is outside 1 to 94"),
        ("elements", lambda x: changed(x, 0, 95), "an element is outside 1 to 94"),
        ("positions", lambda x: changed(x, 0, 14), "a space group has no such Wyckoff position"),
        ("distances", lambda x: x[1:], "'distances' must be 95 x 95"),
        ("distances", lambda x: x.double(), "'distances' must be torch.float32 with 2 axes"),
        ("distances", lambda x: changed(x, (3, 4), float("nan")), "must be finite and not negative"),
        ("distances", lambda x: changed(x, (3, 4), -1.0), "must be finite and not negative"),
    ],
)
def test_nonsense_is_refused(
    memory: SymmetryMemory, name: str, change: Callable[[torch.Tensor], torch.Tensor] | None, message: str
) -> None:
    tensors = memory.to_tensors()
    value = tensors.pop(name, torch.zeros(1))
    with pytest.raises(InputError, match=f"^symmetry memory: .*{message}") as error:
        SymmetryMemory.from_tensors(tensors | ({name: change(value)} if change else {}))
    assert "\n" not in str(error.value)


def test_a_further_memory_is_kept_beside(memory: SymmetryMemory) -> None:
    other = SymmetryMemory.build([ROCK_SALT], 2.0 * memory.distances)
    both = replace(memory, further=other)
    assert memory.parts() == (memory,)
    assert both.parts() == (both, other)
    assert both.neighbours({12: 1, 16: 1}) == memory.neighbours({12: 1, 16: 1})
    read = SymmetryMemory.from_tensors(both.to_tensors())
    assert len(read.parts()) == 2
    for part, before in zip(read.parts(), both.parts(), strict=True):
        assert part.neighbours({12: 1, 16: 1}) == before.neighbours({12: 1, 16: 1})
    broken = both.to_tensors()
    del broken["further.offsets"]
    with pytest.raises(InputError, match="'offsets' is missing"):
        SymmetryMemory.from_tensors(broken)


def test_what_is_read_is_sorted_as_what_is_built() -> None:
    """Of cells of one to four elements, some on several orbits, whatever the order of the labels."""
    labels = [
        SymmetryLabel(227, ((8, "e"), (12, "a"), (13, "d"))),
        SymmetryLabel(62, ((8, "c"), (8, "c"), (8, "d"), (20, "c"), (22, "a"))),
        SymmetryLabel(225, ((29, "a"),)),
        SymmetryLabel(216, ((3, "a"), (9, "c"), (11, "b"), (17, "d"))),
        ROCK_SALT,
        FLUORITE,
        CAESIUM_CHLORIDE,
    ]
    distances = np.abs(np.arange(95, dtype=np.float32)[:, None] - np.arange(95, dtype=np.float32))
    read = SymmetryMemory.from_tensors(SymmetryMemory.build(labels, distances).to_tensors())
    again = SymmetryMemory.build(list(read.labels), distances)
    assert read._groups.keys() == again._groups.keys()
    for counts, (rows, elements) in again._groups.items():
        assert read._groups[counts][0].tolist() == rows.tolist()
        assert read._groups[counts][1].tolist() == elements.tolist()
    assert list(read.labels[1:3]) == [read.labels[1], read.labels[2]]
    assert read.to_tensors().keys() == again.to_tensors().keys()
    assert all(torch.equal(value, again.to_tensors()[name]) for name, value in read.to_tensors().items())
