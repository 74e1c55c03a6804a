"""What a page consists of: plain values, which `templates/pieces.html` lays out, a macro for each `kind`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from markupsafe import Markup


@dataclass(frozen=True)
class Tile:
    """One number set large: its value, its name, and what it is compared with."""

    value: str
    word: str
    beside: Sequence[str] = ()


@dataclass(frozen=True)
class Tiles:
    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Share:
    """A cell with a number from 0 to 1 and its bar."""

    share: float


@dataclass(frozen=True)
class Spread:
    """A cell with a mean, its spread over seeds where there are several, and whether it is the best of its column."""

    mean: float | None
    spread: float | None
    best: bool = False


@dataclass(frozen=True)
class Table:
    """Cells are strings, numbers, `Share` or `Spread`; the first `words` columns are text. A row whose name starts with
    a blank belongs to the one above. Rows from `first` on are folded."""

    kind: ClassVar[str] = "table"
    headings: Sequence[str]
    rows: Sequence[Sequence[Any]]
    words: int = 1
    title: str = ""
    first: int | None = None


@dataclass(frozen=True)
class Chart:
    """A picture of `plots`; the legend is of (name, colour)."""

    kind: ClassVar[str] = "chart"
    svg: Markup
    title: str = ""
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Legend:
    """(name, colour) of several charts."""

    kind: ClassVar[str] = "legend"
    legend: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Example:
    """One question to the model: what was asked, the right answers, the model's own with (name, remark, whether it is
    right), and a verdict."""

    asked: str
    right: Sequence[str]
    said: Sequence[tuple[str, str, bool]]
    verdict: str


@dataclass(frozen=True)
class Examples:
    kind: ClassVar[str] = "examples"
    title: str
    examples: Sequence[Example]


@dataclass(frozen=True)
class Lines:
    """Text as it is, line by line; `columns` sets short lines side by side."""

    kind: ClassVar[str] = "lines"
    text: str
    columns: bool = False


@dataclass(frozen=True)
class Note:
    kind: ClassVar[str] = "note"
    text: str


@dataclass(frozen=True)
class Beside:
    """Blocks next to one another where there is room, `across` of them at most."""

    kind: ClassVar[str] = "beside"
    blocks: Sequence[Any]
    across: int = 2


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Any]
    note: str = ""
