"""Markdown pages run as a reader would: their fenced blocks in order, and what they print against what is shown.

``python`` blocks share their names within a page. In ``console`` blocks each ``$ command`` must succeed; lines below it
are its output. A ``text`` block is the output of the block before it. ``...`` in an output stands for anything or
nothing, and amounts of white space do not count; where no output is shown, none is compared. Progress bars are no
output. Other blocks are not run.
"""

from __future__ import annotations

import doctest
import io
import re
import runpy
import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RUN = ("python", "console")

_FENCE = re.compile(r"^```([\w-]*)[^`]*$")
_ELLIPSIS = re.compile(r"\s*\.\.\.\s*")
_SHELL = re.compile(r"[|<>&;*$`]")
_MATCHING = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


class PageError(AssertionError):
    """A block that does not do what its page says."""


@dataclass
class Block:
    """A fenced block: its language, its text and the line of the page where that begins (from 1)."""

    language: str
    line: int
    text: str
    output: str = ""
    """Of a ``python`` block."""


def blocks_of(page: Path) -> list[Block]:
    """All blocks of a page that are run, with their output."""
    blocks: list[Block] = []
    before: Block | None = None
    inside: Block | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = _FENCE.match(line)
        if inside is None:
            if fence:
                inside = Block(fence[1], number + 1, "")
        elif not line.startswith("```"):
            inside.text += f"{line}\n"
        else:
            if inside.language in RUN:
                blocks.append(inside)
            elif inside.language == "text" and before is not None and before.language == "python":
                before.output = inside.text
            before, inside = inside, None
    if inside is not None:
        raise PageError(f"{page.name}:{inside.line - 1}: a block is not closed")
    return blocks


def commands_of(block: Block) -> Iterator[tuple[int, str, str]]:
    """Line, command and output of each command of a ``console`` block; a backslash goes on in the next line."""
    lines = block.text.splitlines()
    at = 0
    while at < len(lines):
        start = at
        if not lines[at].startswith("$ "):
            raise PageError(f"line {block.line + at}: a console block begins with a command: {lines[at]!r}")
        command = lines[at][2:]
        while command.endswith("\\"):
            at += 1
            command = command[:-1] + lines[at].strip()
        at += 1
        shown = at
        while at < len(lines) and not lines[at].startswith("$ "):
            at += 1
        yield block.line + start, command, "\n".join(lines[shown:at])


@dataclass
class Reader:
    """Runs a page in the working folder; ``dao`` by ``main``, in this process, all other commands by a shell."""

    main: Callable[[Sequence[str]], int]
    names: dict[str, Any] = field(default_factory=dict)

    def read(self, page: Path, scratch: Path) -> int:
        """Run the page and return its number of blocks; ``scratch`` is a folder for the code, outside the working one.

        Raises:
            PageError: a command failed, or something else than what the page shows was printed.

        """
        blocks = blocks_of(page)
        for block in blocks:
            if block.language == "python":
                printed = self._python(block, scratch / f"{page.stem}.py")
                self._compare(page, block.line, block.output, printed)
                continue
            for line, command, output in commands_of(block):
                code, printed = self._command(command)
                if code != 0:
                    raise PageError(f"{page.name}:{line}: {command}\nexit code {code}:\n{printed}")
                self._compare(page, line, output, printed)
        return len(blocks)

    def _python(self, block: Block, file: Path) -> str:
        # so that a traceback has the lines of the page
        file.write_text("\n" * (block.line - 1) + block.text, encoding="utf-8")
        with redirect_stdout(io.StringIO()) as printed:
            made = runpy.run_path(str(file), self.names)
        self.names = {name: value for name, value in made.items() if not name.startswith("__")}
        return printed.getvalue()

    def _command(self, command: str) -> tuple[int, str]:
        words = shlex.split(command, comments=True)
        if words[0] == "dao" and not any(_SHELL.search(word) for word in words):
            with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
                code = self.main(words[1:])
            return code, printed.getvalue()
        done = subprocess.run(
            ["bash", "-c", command],  # noqa: S607 -- as a reader has it
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, done.stdout

    @staticmethod
    def _compare(page: Path, line: int, shown: str, printed: str) -> None:
        printed = "\n".join(line for line in printed.splitlines() if "\u2501" not in line)
        wanted = _ELLIPSIS.sub("...", shown.strip())
        if wanted and not doctest.OutputChecker().check_output(wanted, printed.strip(), _MATCHING):
            raise PageError(f"{page.name}:{line} shows\n{shown}\nbut prints\n{printed}")
