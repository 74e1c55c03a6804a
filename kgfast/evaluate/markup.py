"""Text in the report: no markup in a browser, and nothing that a terminal obeys where the file is printed on one."""

from __future__ import annotations

import html

from kgfast.core.terminal import visible


def escape(text: str) -> str:
    """The text as HTML, control characters but ends of lines as escapes."""
    return html.escape("\n".join(map(visible, text.split("\n"))))
