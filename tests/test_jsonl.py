"""Files that let a killed run go on; tests/test_sample_file.py has more of them, through their first user."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from dao.errors import InputError
from dao.jsonl import JsonLines, read_made_by

MADE_BY = {"seed": 0, "sampler": {"steps": 3, "scale": 0.1}}


def number(line: Any) -> int:
    return int(line["n"])


def lines(path: Path, **changes: Any) -> JsonLines:
    return JsonLines(path, MADE_BY | changes, "answers")


def test_lines_are_read_in_the_order_of_writing(tmp_path: Path) -> None:
    file = lines(tmp_path / "new" / "folder" / "answers.jsonl")
    assert file.read(number) == []
    assert list(tmp_path.iterdir()) == []
    file.append({"n": n} for n in range(3))
    first = file.path.read_bytes()
    lines(file.path).append([{"n": 7}])
    assert lines(file.path).read(number) == [0, 1, 2, 7]
    assert file.path.read_bytes() == first + b'{"n": 7}\n'
    assert json.loads(first.splitlines()[0]) == {"made_by": MADE_BY}


def test_nothing_to_add_writes_the_first_line_once(tmp_path: Path) -> None:
    file = lines(tmp_path / "answers.jsonl")
    file.append([])
    once = file.path.read_bytes()
    file.append([])
    assert file.path.read_bytes() == once
    assert file.read(number) == []
    with pytest.raises(InputError, match="another seed"):
        lines(file.path, seed=1).read(number)


def test_a_kill_at_any_byte_loses_the_running_line_alone(tmp_path: Path) -> None:
    file = lines(tmp_path / "answers.jsonl")
    file.append([{"n": n} for n in range(4)])
    raw = file.path.read_bytes()
    for end in range(len(raw) + 1):
        file.path.write_bytes(raw[:end])
        found = file.read(number)
        assert found == list(range(max(0, raw[:end].count(b"\n") - 1)))
        file.append({"n": n} for n in range(len(found), 4))
        assert file.path.read_bytes() == raw


def test_what_differs_is_named_and_the_file_left_alone(tmp_path: Path) -> None:
    file = lines(tmp_path / "answers.jsonl")
    file.append([{"n": 1}])
    with file.path.open("ab") as stream:
        stream.write(b'{"n": 2')
    torn = file.path.read_bytes()
    with pytest.raises(InputError) as refused:
        lines(file.path, seed=1, sampler={"steps": 4}).read(number)
    assert str(refused.value) == (
        f"{tmp_path} holds answers made with another seed and sampler: choose another --out, or remove that folder"
    )
    with pytest.raises(InputError, match="another targets"):
        lines(file.path, targets="abc").read(number)
    with pytest.raises(InputError, match="another sampler"):
        JsonLines(file.path, {"seed": 0}, "answers").read(number)
    assert file.path.read_bytes() == torn


@pytest.mark.parametrize(
    "content", [b"[]\n", b"{}\n", b"hello\n", b"\xff\n", b'{"made_by": []}\n3\n', b"[" * 10**5 + b"\n"]
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "answers.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=r"answers\.jsonl: not a file of answers$"):
        JsonLines(tmp_path / "answers.jsonl", {}, "answers").read(number)
    assert (tmp_path / "answers.jsonl").read_bytes() == content


def test_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="file: is no folder"):
        lines(tmp_path / "file" / "answers.jsonl").read(number)
    with pytest.raises(InputError, match="folder: Is a directory"):
        lines(tmp_path / "folder").read(number)
    for path in (tmp_path / "file" / "answers.jsonl", tmp_path / "folder"):
        with pytest.raises(InputError, match=r"cannot be written \("):
            lines(path).append([{"n": 1}])


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        lines(tmp_path / "answers.jsonl").append([{"n": 1}])


def test_what_a_file_was_made_by(tmp_path: Path) -> None:
    file = lines(tmp_path / "answers.jsonl")
    file.append([{"n": 1}])
    assert read_made_by(file.path, "answers") == MADE_BY
    with pytest.raises(InputError, match="holds no answers"):
        read_made_by(tmp_path / "none" / "answers.jsonl", "answers")
    for text in ("", "{}\n", "[1]\n", '{"made_by": 3}\n', "\xff\n"):
        file.path.write_text(text)
        with pytest.raises(InputError, match="not a file of answers"):
            read_made_by(file.path, "answers")
