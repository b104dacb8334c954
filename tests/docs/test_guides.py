"""Every block of the guides is run, in order, in an empty folder, and prints what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pages import PageError, Reader, blocks_of

from dao.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)#]*)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guide_does_what_it_says(
    guide: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # a guide makes its own data
    monkeypatch.setenv("DAO_DATA", str(tmp_path / "nothing"))
    assert Reader(main).read(guide, tmp_path_factory.mktemp("code")) > 2


def test_there_are_guides() -> None:
    assert {guide.stem for guide in GUIDES} >= {"predict", "potentials", "evaluate-your-model", "finetune"}


def test_every_page_is_listed() -> None:
    listed = {(DOCS / link).resolve() for link, _ in links_of(DOCS / "README.md")}
    assert set(DOCS.rglob("*.md")) - {DOCS / "README.md"} <= listed


@pytest.mark.parametrize("page", [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link, anchor in links_of(page):
        target = page.parent / link if link else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(f"{link}#{anchor}")
    assert broken == []


def links_of(page: Path) -> list[tuple[str, str]]:
    """File (empty: the page itself) and anchor of every link that leads into the repository."""
    found: list[tuple[str, str]] = LINK.findall(page.read_text(encoding="utf-8"))
    return found


def anchors_of(page: Path) -> set[str]:
    """Of its headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def read(text: str, folder: Path) -> int:
    page = folder / "page.md"
    page.write_text(text)
    return Reader(main).read(page, folder)


def test_names_and_outputs_go_on_from_block_to_block(tmp_path: Path) -> None:
    text = "```python\nx = 2\n```\n\n```toml\nx = 3\n```\n"
    text += "```python\nprint(x + 1, 'of', 17.5)\n```\n```text\n3 of ...\n```\n"
    assert read(f"{text}\n```console\n$ printf 'a\\nb\\n' \\\n    | cat\na\nb\n$ true\n```\n", tmp_path) == 3


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```python\nprint(1)\n```\n```text\n2\n```\n", "page.md:2 shows\n2\n\nbut prints\n1"),
        ("\n```console\n$ echo 1\n2\n```\n", "page.md:3 shows"),
        ("```console\n$ dao predict XxO2\n```\n", "page.md:2: dao predict XxO2\nexit code 2:\ndao: error: formula"),
        ("```console\n$ false\n```\n", "exit code 1"),
        ("```console\nls\n```\n", "begins with a command"),
        ("```python\nx = 1\n", "page.md:1: a block is not closed"),
    ],
)
def test_a_page_that_lies_fails(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(PageError, match=re.escape(complaint)):
        read(text, tmp_path)


def test_a_traceback_names_the_line_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        read("# A page\n\n```python\nx = 0\n1 / x\n```\n", tmp_path)
    last = caught.traceback[-1]
    assert (Path(last.path).name, last.lineno + 1) == ("page.py", 5)
    assert len(blocks_of(tmp_path / "page.md")) == 1
