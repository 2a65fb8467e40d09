"""The documents as tests see them: code blocks, tables and links, in order."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

_FILE_NAME = re.compile(r"`([\w./-]+\.(?:yaml|csv))`")


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        kind: Its language: bash, console, yaml, csv, json, text.
        text: Its content.
        file: The file it shows: the last one named in the paragraph before it; None where none is.
        line: Line number of the fence.
    """

    kind: str
    text: str
    file: str | None
    line: int


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        header: Cells of the first row, without backticks.
        rows: Cells of the other rows, without backticks.
        line: Line number of the header.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    line: int

    def column(self, title: str) -> list[str]:
        """The cells below a title."""
        return [row[self.header.index(title)] for row in self.rows]


def parts(path: Path) -> list[Block | Table]:
    """Code blocks and tables of a document, in order."""
    lines = path.read_text("utf-8").splitlines()
    found: list[Block | Table] = []
    paragraph: list[str] = []
    number = 0
    while number < len(lines):
        line, start = lines[number], number
        number += 1
        if line.startswith("```"):
            number = lines.index("```", number) + 1
            names = _FILE_NAME.findall(" ".join(paragraph))
            text = "\n".join(lines[start + 1 : number - 1]) + "\n"
            found.append(Block(line[3:].strip(), text, names[-1] if names else None, start + 1))
            paragraph = []
        elif line.startswith("|"):
            number = next((n for n in range(number, len(lines)) if not lines[n].startswith("|")), len(lines))
            header, _, *rows = (_cells(row) for row in lines[start:number])
            found.append(Table(header, tuple(rows), start + 1))
            paragraph = []
        elif line.strip():
            if start and not lines[start - 1].strip():
                paragraph = []
            paragraph.append(line)
    return found


def blocks(path: Path, *kinds: str) -> list[Block]:
    """Code blocks of some languages."""
    return [part for part in parts(path) if isinstance(part, Block) and part.kind in kinds]


def table(path: Path, *titles: str) -> Table:
    """The one table whose header begins with these titles."""
    found = [p for p in parts(path) if isinstance(p, Table) and p.header[: len(titles)] == titles]
    assert len(found) == 1, f"{path.name}: {len(found)} tables begin with the columns {titles}"
    return found[0]


def commands(block: Block) -> list[list[str]]:
    """Words of the commands of a bash or console block, comments left out and continued lines joined."""
    text = block.text.replace("\\\n", " ")
    lines = [re.sub(r"(^|\s)#.*$", "", line).strip() for line in text.splitlines()]
    return [line.split() for line in lines if line]


def links(path: Path) -> list[str]:
    """Targets of links within the project, without anchors of the same page."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    return [t for t in targets if not t.startswith(("http://", "https://", "#"))]


def _cells(row: str) -> tuple[str, ...]:
    return tuple(cell.strip().replace("`", "") for cell in row.strip().strip("|").split("|"))
