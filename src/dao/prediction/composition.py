"""Formulas as people type them, and the cells that a formula may fill.

A formula is element symbols with optional counts, brackets ``()[]{}`` of any depth, and hydrate parts after ``·`` or
``*``; counts are whole numbers or decimals (``Li0.5CoO2`` is read as LiCo2O4) and may be subscripts (``SrTiO₃``). Every
size is checked by arithmetic on the text, so a formula of 1e9 atoms costs nothing. Neither torch nor pymatgen is
imported.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from dao.crystal import DEFAULT_LIMITS
from dao.elements import ATOMIC_NUMBERS, ELECTRONEGATIVITY, SYMBOLS
from dao.errors import InputError

MAX_ATOMS = DEFAULT_LIMITS.max_atoms
"""Atoms in the largest cell that is accepted at all."""

AUTO_CELLS = (1, 2, 3, 4)
"""Formula units a cell that ``--cells auto`` tries."""

PROTOTYPE_MAX_ATOMS = 52
"""Atoms in the largest cell that prototypes are asked for by ``--cells auto``: substitution costs the same for all."""

AUTO_MAX_ATOMS = 20
"""Atoms in the largest cell that ``--cells auto`` tries by itself where weights do not say what they know."""

_MAX_CHARACTERS = 200
_SHOWN_CHARACTERS = 60
_MAX_SCALE = 100
_POLYANION_GAP = 1.65  # Pauling units; below it pymatgen groups the last two elements: Li3Fe2(PO4)3

_TO_ASCII = str.maketrans("₀₁₂₃₄₅₆₇₈₉⋅∙•*", "0123456789····")
_TOKEN = re.compile(r"(?P<element>[A-Z][a-z]?)|(?P<open>[(\[{])|(?P<close>[)\]}])")
_COUNT = re.compile(r"[0-9]+(?:\.[0-9]+)?")
_ELEMENT_AND_COUNT = re.compile(r"[A-Z][a-z]?([0-9]+(\.[0-9]+)?)?")
_CLOSER = {"(": ")", "[": "]", "{": "}"}
_BEYOND = re.compile("Am|Cm|Bk|Cf|Es|Fm|Md|No|Lr|Rf|Db|Sg|Bh|Hs|Mt|Ds|Rg|Cn|Nh|Fl|Mc|Lv|Ts|Og")
_DOUBLED = frozenset({"LiO", "NaO", "KO", "HO", "CsO", "RbO", "O", "N", "F", "Cl", "H"})
"""Peroxides and diatomic gases, which are written, as pymatgen does, with two of each atom."""


@dataclass(frozen=True)
class Composition:
    """One formula unit: distinct elements by rising atomic number, and how many atoms of each (smallest whole numbers).

    Build it by :func:`parse_formula` or :meth:`from_counts`, which reduce the counts.
    """

    atomic_numbers: tuple[int, ...]
    amounts: tuple[int, ...]

    @classmethod
    def from_counts(cls, counts: Mapping[int, int]) -> Composition:
        """Composition of ``{atomic number: atoms}``, reduced: ``{38: 2, 22: 2, 8: 6}`` is SrTiO3.

        Raises:
            InputError: no atoms, a count below 1, or an atomic number outside 1-94.

        """
        if not counts:
            raise InputError("a composition needs at least one element")
        for number, count in counts.items():
            if not 1 <= number < len(SYMBOLS):
                raise InputError(f"atomic number {number} is not supported: 1 (H) to {len(SYMBOLS) - 1} (Pu)")
            if count < 1:
                raise InputError(f"{SYMBOLS[number]} has {count} atoms: every count must be at least 1")
        divisor = math.gcd(*counts.values())
        numbers = tuple(sorted(counts))
        reduced = cls(numbers, tuple(counts[number] // divisor for number in numbers))
        if reduced.reduced_formula in _DOUBLED:
            return cls(numbers, tuple(2 * amount for amount in reduced.amounts))
        return reduced

    @property
    def symbols(self) -> tuple[str, ...]:
        """Element symbols, in the order of ``atomic_numbers``."""
        return tuple(SYMBOLS[number] for number in self.atomic_numbers)

    @property
    def num_atoms(self) -> int:
        """Atoms in one formula unit."""
        return sum(self.amounts)

    @property
    def reduced_formula(self) -> str:
        """The formula by rising electronegativity, exactly as pymatgen's ``Composition.reduced_formula``."""
        return _formula(dict(zip(self.symbols, self.amounts, strict=True)))

    def numbers_for(self, formula_units: int) -> tuple[int, ...]:
        """Atomic numbers, sorted, of a cell of that many formula units; length ``formula_units * num_atoms``."""
        pairs = zip(self.atomic_numbers, self.amounts, strict=True)
        return tuple(number for number, amount in pairs for _ in range(amount * formula_units))

    def __str__(self) -> str:
        return self.reduced_formula


def parse_formula(text: str, max_atoms: int = MAX_ATOMS) -> Composition:
    """Read a formula; it may have at most ``max_atoms`` atoms as typed (and after decimals are made whole).

    Raises:
        InputError: anything but a well-formed formula of the elements H to Pu; the message says what and where.

    """
    if not text.strip():
        raise InputError("empty formula: write elements and counts, e.g. SrTiO3")
    shown = _shown(text)
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"formula {shown}: {len(text)} characters, more than the limit of {_MAX_CHARACTERS}")
    try:
        counts = _whole_counts(_parse_parts(_normalise(text)), max_atoms)
    except InputError as error:
        raise InputError(f"formula {shown}: {error}{_suggestion(text)}") from None
    return Composition.from_counts({ATOMIC_NUMBERS[symbol]: count for symbol, count in counts.items()})


def parse_cells(
    text: str, composition: Composition, max_atoms: int | None = None, *, trained: int | None = None
) -> tuple[int, ...]:
    """Formula units a cell to try: ``"auto"`` or whole numbers such as ``"1,2,4"``, each once, in the order typed.

    ``max_atoms`` bounds every cell. Without it, ``auto`` stays within the largest cell that the weights were
    ``trained`` on, or ``AUTO_MAX_ATOMS`` atoms (one formula unit is tried in any case), and an explicit choice within
    ``MAX_ATOMS``.

    Raises:
        InputError: not a list of whole numbers, or a cell above the bound.

    """
    size = composition.num_atoms
    bound = MAX_ATOMS if max_atoms is None else min(max_atoms, MAX_ATOMS)
    if text.strip().lower() == "auto":
        if size > bound:
            raise InputError(f"one formula unit of {composition} has {size} atoms, more than the limit of {bound}")
        limit = max(trained or AUTO_MAX_ATOMS, size) if max_atoms is None else bound
        return tuple(units for units in AUTO_CELLS if units * size <= limit)
    cells: dict[int, None] = {}
    for part in text.split(","):
        # at most nine digits: int() of a million of them is slow
        if not re.fullmatch(r"\s*[1-9][0-9]{0,8}\s*", part):
            raise InputError(f"cells {_shown(text)}: write 'auto' or formula units a cell such as 1,2,4")
        units = int(part)
        if units * size > bound:
            atoms = f"{units * size} atoms, more than the limit of {bound}"
            raise InputError(f"cells {_shown(text)}: {units} formula units of {composition} are {atoms}")
        cells[units] = None
    return tuple(cells)


def prototype_cells(text: str, composition: Composition, max_atoms: int | None = None) -> tuple[int, ...]:
    """Formula units a cell for prototypes: as :func:`parse_cells`, but ``auto`` is every number that fits.

    It stays within ``max_atoms``, by default ``PROTOTYPE_MAX_ATOMS`` (one formula unit is tried in any case), however
    small the cells that a generator was trained on.

    Raises:
        InputError: as :func:`parse_cells`.

    """
    first = parse_cells(text, composition, max_atoms)
    if text.strip().lower() != "auto":
        return first
    limit = PROTOTYPE_MAX_ATOMS if max_atoms is None else min(max_atoms, MAX_ATOMS)
    return tuple(range(1, max(limit // composition.num_atoms, 1) + 1))


def read_formula_file(path: Path, max_atoms: int = MAX_ATOMS) -> list[Composition]:
    """Compositions of a UTF-8 text file: one formula a line, ``#`` starts a comment, empty lines are skipped.

    Raises:
        InputError: the file cannot be read, holds no formula, or holds a bad one (the message says which line).

    """
    try:
        # an editor on Windows puts a mark at the beginning
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: not a UTF-8 text file of formulas") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    compositions, bad = [], {}
    for number, line in enumerate(lines, start=1):
        formula = line.split("#", 1)[0].strip()
        if formula:
            try:
                compositions.append(parse_formula(formula, max_atoms))
            except InputError as error:
                bad[number] = error
    if bad:
        first, *others = bad
        more = f" (bad too: {_lines(others)})" if others else ""
        raise InputError(f"{path} line {first}: {bad[first]}{more}")
    if not compositions:
        raise InputError(f"{path}: holds no formula")
    return compositions


def _lines(numbers: list[int]) -> str:
    """``line 7``, ``lines 7, 9``; a long list is cut."""
    shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
    return f"line{'s' if len(numbers) > 1 else ''} {shown}"


def _shown(text: str) -> str:
    """The text in quotes on one line, cut where it is long."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "...")


def _formula(amounts: Mapping[str, int]) -> str:
    """Formula of whole amounts without a common divisor, in pymatgen's order and with its grouping of polyanions."""
    order = sorted(amounts, key=lambda symbol: (ELECTRONEGATIVITY[ATOMIC_NUMBERS[symbol]], symbol))
    tail = ""
    if len(order) > 2:
        first, last = order[-2:]
        gap = ELECTRONEGATIVITY[ATOMIC_NUMBERS[last]] - ELECTRONEGATIVITY[ATOMIC_NUMBERS[first]]
        groups = math.gcd(amounts[first], amounts[last])
        if gap < _POLYANION_GAP and groups > 1:
            inner = _formula({first: amounts[first] // groups, last: amounts[last] // groups})
            tail, order = f"({inner}){groups}", order[:-2]
    return "".join(f"{symbol}{amounts[symbol] if amounts[symbol] > 1 else ''}" for symbol in order) + tail


def _normalise(text: str) -> str:
    """ASCII digits and one hydrate sign; spaces only between single elements ("Sr1 Ti1 O3") and around that sign."""
    words = re.sub(r"\s*·\s*", "·", text.strip().translate(_TO_ASCII)).split()
    if len(words) > 1 and not all(_ELEMENT_AND_COUNT.fullmatch(word) for word in words):
        raise InputError("a space inside: give several formulas as separate words, without quotes around them all")
    return "".join(words)


def _parse_parts(text: str) -> dict[str, Fraction]:
    total: dict[str, Fraction] = {}
    for index, part in enumerate(text.split("·")):
        coefficient = _COUNT.match(part) if index else None
        rest = part[coefficient.end() :] if coefficient else part
        if not rest:
            raise InputError("nothing on one side of the hydrate sign '·'")
        if re.search(r"\.[0-9]*H2O$", rest):
            raise InputError("'.' before a final H2O may be a decimal or a hydrate: write '*' for a hydrate")
        factor = _count(coefficient.group(), "the hydrate part") if coefficient else Fraction(1)
        _add(total, _parse_groups(rest), factor)
    return total


def _parse_groups(text: str) -> dict[str, Fraction]:
    """Exact amounts of one part without hydrate signs."""
    stack: list[dict[str, Fraction]] = [{}]
    closers: list[str] = []
    position = 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise InputError(_unexpected(text, position))
        position = token.end()
        if token["open"]:
            stack.append({})
            closers.append(_CLOSER[token["open"]])
            continue
        if token["close"]:
            if not closers or token["close"] != closers.pop():
                raise InputError(f"unmatched {token['close']!r}")
            inner, name = stack.pop(), "a bracket"
            if not inner:
                raise InputError("empty brackets")
        else:
            name = _checked_element(token["element"])
            inner = {name: Fraction(1)}
        number = _COUNT.match(text, position)
        factor = Fraction(1)
        if number:
            position = number.end()
            factor = _count(number.group(), name)
        _add(stack[-1], inner, factor)
    if closers:
        raise InputError(f"missing {closers[-1]!r}")
    return stack[0]


def _add(total: dict[str, Fraction], part: Mapping[str, Fraction], factor: Fraction) -> None:
    for symbol, amount in part.items():
        total[symbol] = total.get(symbol, Fraction(0)) + amount * factor


def _count(digits: str, of: str) -> Fraction:
    if re.match(r"0[0-9]", digits):
        raise InputError(f"count {digits!r} of {of} starts with a zero")
    count = Fraction(digits)
    if count == 0:
        raise InputError(f"count of {of} is zero")
    return count


def _checked_element(symbol: str) -> str:
    if symbol in ("D", "T"):
        raise InputError(f"{symbol!r} is an isotope, not an element: write H")
    if _BEYOND.fullmatch(symbol):
        raise InputError(f"element {symbol!r} is not supported (H to Pu are)")
    if symbol not in ATOMIC_NUMBERS:
        raise InputError(f"unknown element {symbol!r}")
    return symbol


def _unexpected(text: str, position: int) -> str:
    rest = text[position]
    if rest in "+-^":
        return f"unexpected {rest!r} (charges are not part of a formula)"
    if rest.isdigit() and position == 0:
        return "a number comes before the first element"
    if rest == "e" and position and text[position - 1].isdigit():
        return "counts like 1e3 are not accepted: write them out"
    return f"unexpected {rest!r} at character {position + 1}"


def _whole_counts(exact: Mapping[str, Fraction], max_atoms: int) -> dict[str, int]:
    scale = math.lcm(*(amount.denominator for amount in exact.values()))
    if scale > _MAX_SCALE:
        raise InputError(f"decimals that become whole only in {scale:.4g} formula units (at most {_MAX_SCALE})")
    counts = {symbol: int(amount * scale) for symbol, amount in exact.items()}
    total = sum(counts.values())
    if total > max_atoms:
        times = f" once {scale} formula units make the counts whole" if scale > 1 else ""
        raise InputError(f"{total:.4g} atoms{times}, more than the limit of {max_atoms}")
    return counts


def _suggestion(text: str) -> str:
    """The likeliest formulas with the same letters and other capitals, as a question; empty if there is none."""
    plain = text.strip().translate(_TO_ASCII)
    if len(plain) > 24 or not plain.isascii():
        return ""
    readings = sorted(set(_recased(plain)), key=lambda reading: (sum(map(str.isupper, reading)), reading))
    good = [reading for reading in readings if reading != plain and _is_formula(reading)][:2]
    return f" (did you mean {' or '.join(good)}?)" if good else ""


def _recased(text: str) -> Iterator[str]:
    if not text:
        yield ""
        return
    for length in (2, 1):
        symbol = text[:length].capitalize()
        if symbol in ATOMIC_NUMBERS and len(symbol) == length:
            yield from (symbol + rest for rest in _recased(text[length:]))
    if not text[0].isalpha():
        yield from (text[0] + rest for rest in _recased(text[1:]))


def _is_formula(text: str) -> bool:
    try:
        _whole_counts(_parse_parts(text), MAX_ATOMS)
    except InputError:
        return False
    return True
