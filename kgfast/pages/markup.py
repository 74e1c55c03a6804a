"""Text in pages: no markup in a browser, and nothing that a terminal obeys where the file is printed on one."""

from __future__ import annotations

from markupsafe import Markup
from markupsafe import escape as escape_markup

from kgfast.core.terminal import visible


def plain(text: str) -> str:
    """The text with control characters but ends of lines as escapes."""
    return "\n".join(map(visible, text.split("\n")))


def escape(text: str) -> Markup:
    """The text as HTML, control characters but ends of lines as escapes."""
    return escape_markup(plain(text))
