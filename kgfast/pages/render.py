"""Blocks to a page: one HTML file. What comes from data is text: escaped for browsers, and it steers no terminal."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kgfast import __version__
from kgfast.core.files import replacing
from kgfast.pages.blocks import Section, Tiles
from kgfast.pages.markup import plain


def write_page(
    path: str | os.PathLike, title: str, subtitle: str, tiles: Tiles | None, sections: Sequence[Section], about: str
) -> Path:
    """The page at `path`: title, tiles, sections, and what it is about in its foot. Returns the path."""
    page = environment().get_template("page.html").render(
        title=title, subtitle=subtitle, tiles=tiles, sections=sections, foot=f"kgfast {__version__} · {about}"
    )  # fmt: skip
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")
    return Path(path)


@cache
def environment() -> Environment:
    """Templates whose every value is escaped, but for charts, which escape what they hold (`Markup`)."""
    found = Environment(
        loader=PackageLoader("kgfast.pages"), autoescape=True, undefined=StrictUndefined, finalize=harmless,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"figure": figure}
    return found


def harmless(value: Any) -> Any:
    """Text without characters that a terminal obeys; Jinja2 escapes it after that."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def figure(value: str | float | None) -> str:
    """Counts whole, other numbers with at least three digits; words as they are."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3f}" if abs(value) <= 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:,.1f}"
