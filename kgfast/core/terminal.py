"""What people see on a terminal: text from files and arguments can't steer it."""

from __future__ import annotations

import re
from typing import Any

from rich.console import Console
from rich.text import Text

from kgfast.core.files import naming

# Control characters (C0, DEL, C1), separators of lines, overrides of the direction of writing, halves of characters.
STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """The text with an escape in place of each character that a terminal would obey."""
    return STEERING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class Screen(Console):
    """A console that shows every string as it is: no markup, no emoji by name, nothing that steers the terminal."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **options})

    def print(self, *objects: Any, **options: Any) -> None:
        with naming("standard error" if self.stderr else "standard output"):
            super().print(*objects, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(visible(text), **options)
