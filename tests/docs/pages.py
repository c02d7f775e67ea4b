"""The pages as Markdown: their code blocks and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"))])

_MARKDOWN = MarkdownIt("commonmark").enable("table")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    :param kind: language, or directive in braces.
    :param argument: what follows it.
    :param line: of the page, from 1.
    """

    page: Path
    line: int
    kind: str
    argument: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def options(self) -> dict[str, str]:
        """The ``:name: value`` lines of a directive."""
        lines = (line[1:].partition(":") for line in self.text.splitlines() if line.startswith(":"))
        return {name: value.strip().strip('"') for name, _, value in lines}

    def included(self) -> str:
        """The lines that a ``literalinclude`` shows."""
        source = (self.page.parent / self.argument).read_text()
        before, found, rest = source.partition(self.options["start-after"])
        assert found, f"{self}: {self.argument} has no marker {self.options['start-after']}"
        shown, found, _ = rest.partition(self.options["end-before"])
        assert found, f"{self}: {self.argument} has no marker {self.options['end-before']}"
        assert before.endswith("# "), f"{self}: the marker is not a comment"
        return "\n".join(shown.splitlines()[1:-1]) + "\n"


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page; indented ones are an error, because they would not be checked."""
    for token in _MARKDOWN.parse(page.read_text()):
        assert token.type != "code_block", f"{page}: an indented code block: {token.content}"
        if token.type == "fence":
            assert token.map
            kind, _, argument = token.info.strip().partition(" ")
            yield Block(page, token.map[0] + 1, kind, argument.strip(), token.content)


def all_blocks(*kinds: str) -> list[Block]:
    """The blocks of these kinds on all pages."""
    return [block for page in PAGES for block in blocks(page) if block.kind in kinds]


def table(page: Path, first: str) -> list[list[str]]:
    """The rows of the page's table with this heading of the first column; cells are Markdown."""
    rows: list[list[str]] = []
    is_it = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")]
        if not line.startswith("|"):
            is_it = False
        elif cells[0] == first:
            is_it = True
        elif is_it and not cells[0].startswith("--"):
            rows.append(cells)
    assert rows, f"{page} has no table headed {first!r}"
    return rows
