"""What the source must never contain: files that run code when they are loaded, and pages nobody reads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src"
FILES = sorted(SOURCE.rglob("*.py"))

FORBIDDEN = {
    "pickle": r"\b(import|from)\s+c?(loud)?pickle|\bpickle\.|allow_pickle\s*=\s*True",
    "torch's pickled files": r"\btorch\.(load|save)\(|weights_only\s*=\s*False",
    "eval and exec of text": r"(?<![\w.])(eval|exec)\(",
    "import by name from data": r"\b__import__\(",
    "unpacking an archive blindly": r"\.extractall\(",
    "a shell": r"os\.system\(|shell\s*=\s*True",
}


def test_there_is_source_to_check() -> None:
    assert len(FILES) > 5


@pytest.mark.parametrize("what", FORBIDDEN)
def test_source_never_uses(what: str) -> None:
    pattern = re.compile(FORBIDDEN[what])
    hits = [
        f"{path.relative_to(SOURCE)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not hits, "\n".join(hits)


def test_files_are_short_enough_to_read() -> None:
    long = [str(path.relative_to(SOURCE)) for path in FILES if len(path.read_text(encoding="utf-8").splitlines()) > 400]
    assert long == []
