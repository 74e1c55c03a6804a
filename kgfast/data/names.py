"""Names: the one place where what somebody writes is matched to an entity or relation.

A name is its exact characters, whoever asks: files of triples, texts and questions, `entity_id`, `ask`, `predict`.
Of names that were shortened from IRIs, the IRI counts too, with or without angle brackets. What only looks like a
name is refused, with words for what differs. Only in the running text of questions slips are forgiven: `Linker`.
"""

from __future__ import annotations

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.iris import bare, last_part
from kgfast.data.look_alikes import END_OF_IRI, LookAlike, difference, like_those
from kgfast.data.strings import Strings
from kgfast.errors import DataError

# Scripts that are written without spaces between words: Thai to Burmese, Khmer, kana, Han.
UNSPACED = "\u0e00-\u109f\u1780-\u17ff\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
LETTER = re.compile(rf"[^\W{UNSPACED}]")
HIDDEN = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]")


class Names(Strings):
    """Names by id; `iris` are the same as files have them, where some were shortened, else None."""

    def __init__(self, values, iris=None):
        super().__init__(values)
        self.iris = None if iris is None else Strings(iris)

    def find(self, text: str) -> int | None:
        """The id of a name, or of the IRI behind one; None where there is none. O(log n)."""
        found = super().find(text)
        if found is None and self.iris is not None:
            found = self.iris.find(bare(pa.array([text]))[0].as_py())
        return found

    def find_all(self, texts) -> np.ndarray:
        """The id of each of `texts` as `find` gives it, -1 for None; int64, O(n + len(texts))."""
        found = super().find_all(texts)
        if self.iris is not None and (found < 0).any():
            texts = texts if isinstance(texts, (pa.Array, pa.ChunkedArray)) else pa.array(texts, pa.large_string())
            missing = np.flatnonzero(found < 0)
            found[missing] = self.iris.find_all(bare(texts.take(pa.array(missing))))
        return found

    def resembling(self, where: str, texts: pa.Array, ids: np.ndarray) -> tuple[list[LookAlike], int]:
        """Those of a file's names that weren't found (`ids` below 0) and look like one of these."""
        return like_those(where, texts.filter(pa.array(ids < 0)), self.array)


def find_id(kind: str, name: str, names: Names, texts: Strings | None = None) -> int:
    """The id of the entity or relation (`kind`) of this name; DataError with the nearest names if there is none."""
    if not isinstance(name, str):
        raise DataError(f"the name of an {kind} must be a string, not {name!r}")
    found = names.find(name)
    if found is not None:
        return found
    if texts is not None and (place := texts.find(name)) is not None:
        raise DataError(f"no {kind} is named {name!r}; it is the text of {names[place]!r}")
    raise DataError(f"no {kind} is named {name!r}; {hint(name, names)}")


def find_by_text(slot: str, name: str, names: Names, texts: Strings | None = None) -> int:
    """As `find_id`, and a text counts for the name of the one that has it."""
    kind = "relation" if slot == "relation" else "entity"
    if isinstance(name, str) and texts is not None and names.find(name) is None and texts.find(name) is not None:
        same = np.flatnonzero(pc.fill_null(pc.equal(texts.array, name), False).to_numpy(zero_copy_only=False)).tolist()
        if len(same) == 1:
            return same[0]
        some = ", ".join(repr(names[index]) for index in same[:5])
        raise DataError(f"{slot} {name!r} is the text of {len(same)} names, give one of them: {some}")
    return find_id(kind, name, names, texts)


def hint(name: str, names: Names) -> str:
    """What the asker may have meant."""
    try:
        asked = pa.array([name], pa.large_string())
    except UnicodeEncodeError:
        return "it is no valid text"
    short = last_part(bare(asked))
    if not short.equals(asked) and (place := names.find(short[0].as_py())) is not None:
        iri = "" if names.iris is None else f", short for {names.iris[place]!r}"
        return f"did you mean {short[0].as_py()!r}{iri}?"
    alike = like_those("", asked, names.array)[0]
    if alike:
        other = alike[0].first
        if alike[0].difference == END_OF_IRI:
            return f"did you mean {other!r}?"
        return f"did you mean {ascii(other)}? It differs in {difference(name, other)}"  # escapes, for who can't see it
    near = names.nearest(name)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"names look like {names[0]!r}"


def tidy(text: str) -> str:
    """A running text in one form of Unicode, with one kind of space, without what can't be seen."""
    if not text.isascii():
        text = HIDDEN.sub("", unicodedata.normalize("NFC", text))
    return " ".join(text.split())


def fold(text: str) -> str:
    """A text, tidy and without case: equal for a name and a mention of it."""
    return tidy(text).casefold()


def unfold(text: str, start: int, stop: int) -> tuple[int, int]:
    """The characters of a tidy text that are [start, stop) of what `fold` makes of it: a letter may become two."""
    if len(text.casefold()) == len(text):
        return start, stop
    places = [place for place, letter in enumerate(text) for _ in letter.casefold()]
    return places[start], places[stop - 1] + 1


def find_mentions(name: str, text: str) -> list[tuple[int, int]]:
    """Where a tidy text holds a tidy name, in any case, as whole words: (start, end) of each. O(len(text))."""
    pattern = re.compile(re.escape(name), re.IGNORECASE)  # the borders stand apart: they are slow to compile
    found, start = [], 0
    while name and (match := pattern.search(text, start)):
        first, end = match.span()
        whole = not (first and LETTER.match(text, first - 1)) and not LETTER.match(text, end)
        if whole:
            found.append((first, end))
        start = end if whole else first + 1
    return found
