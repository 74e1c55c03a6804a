"""Names that look alike: one key for all ways to write a name, and words for what differs."""

from __future__ import annotations

import difflib
import functools
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kgfast.data.iris import bare, index_in, last_part
from kgfast.data.strings import WHOLE_NUMBER, Strings

BLOCK = 1 << 20  # names at a time
MOST = 1000  # pairs that are kept, of each kind of name
SPANS, POINTS = 3, 6  # places, and code points of one, that are spelled out
PLANE = 1 << 16
# Letters and marks of other scripts that look like these; both cases where a capital looks like it.
LOOKS = {
    "a": "АаΑαɑ", "b": "ВвΒβ", "c": "СсϹϲ", "d": "ԁ", "e": "ЕеΕεҽ", "f": "ϝ", "g": "ɡց", "h": "НнΗһհ",
    "i": "ІіΙιıӀӏ", "j": "Јјϳ", "k": "КкΚκ", "m": "МмΜμ", "n": "Νηո", "o": "ОоΟοօס", "p": "РрΡρ",
    "q": "ԛզ", "s": "Ѕѕ", "t": "ТтΤτ", "u": "υս", "v": "νѵ", "w": "ԝѡ", "x": "ХхΧχ", "y": "УуΥүҮ", "z": "Ζζ",
    "-": "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u02d7\ufe58", "'": "\u2018\u2019\u02bc\u02b9\u2032`\u00b4\uff07",
    '"': "\u201c\u201d\u201e\u2033\u00ab\u00bb", "/": "\u2044\u2215", ":": "\ua789\u2236", ".": "\u2024", "σ": "ς",
}  # fmt: skip
VARIANTS = "".join(map(chr, range(0xFE00, 0xFE10)))
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u2800\u3164\uffa0" + VARIANTS
SPACE = "_"  # passes for one
ODD = r"^[\s\p{Z}]|[\s\p{Z}]$|[\p{Cc}\p{Cf}\x{FFFD}\x{A0}\x{2007}\x{202F}]"
END_OF_IRI = "the end of an IRI"
PERCENT = "%[0-9A-Fa-f]{2}"


@dataclass(frozen=True)
class LookAlike:
    """Two names that look alike: where they are, and how they differ."""

    where: str  # entities, relations, or the name of a file whose name `second` is
    first: str
    second: str
    difference: str

    def __str__(self) -> str:
        return f"{self.first!r} and {self.second!r} ({self.difference})"


def keys(names: pa.Array) -> pa.Array:
    """A key of each name, the same for names that look alike.

    Left out: white space, underscores, the brackets of IRIs and what can't be seen. Case, the forms of Unicode and
    percent-encoding are made one, and so are letters of different scripts that look the same.
    """
    blocks = [_keys(names.slice(start, BLOCK)) for start in range(0, len(names), BLOCK)]
    return pa.chunked_array(blocks, pa.large_string()).combine_chunks()


def _keys(names: pa.Array) -> pa.Array:
    if pc.any(pc.starts_with(names, "<")).as_py():
        names = bare(names)
    if pc.any(encoded := pc.match_substring_regex(names, PERCENT)).as_py():
        plain = pa.array(map(unquote, names.filter(encoded).to_pylist()), names.type)
        names = pc.replace_with_mask(names, encoded, plain)
    ascii_only = pc.string_is_ascii(names)
    if pc.all(ascii_only).as_py():
        offsets, letters = Strings(names).buffers()
        letters = table().astype(np.uint8)[letters]
        return _without_zeros(letters, (letters != 0).view(np.uint8), np.diff(offsets), "ascii")
    names = pc.if_else(ascii_only, names, pc.utf8_normalize(names, "NFKD"))
    names = pc.replace_substring(names, "ß", "ss")
    text = Strings(names).buffers()[1].tobytes().decode()
    encoded = text.encode("utf-16-le")
    if len(encoded) == 2 * len(text):
        code, points = "utf-16-le", table()[np.frombuffer(encoded, np.uint16)]
    else:
        code, points = "utf-32-le", np.frombuffer(text.encode("utf-32-le"), np.uint32)
        far = np.where(points >= 0xE0000, 0, points)  # tags and variants that can't be seen
        points = np.where(points < PLANE, table()[np.minimum(points, PLANE - 1)], far)
    size = (points != 0).view(np.uint8) + (points >= 0x80) + (points >= 0x800) + (points >= PLANE)
    return _without_zeros(points, size, pc.utf8_length(names).to_numpy(zero_copy_only=False), code)


def _without_zeros(letters: np.ndarray, size: np.ndarray, lengths: np.ndarray, code: str) -> pa.Array:
    """The strings of `lengths` letters, without those that are 0; in UTF-8 a letter takes `size` bytes."""
    starts = np.cumsum(lengths, dtype=np.int64) - lengths
    ends = np.zeros(len(lengths) + 1, np.int64)
    filled = lengths > 0  # reduceat has no empty parts
    ends[1:][filled] = np.add.reduceat(size, starts[filled], dtype=np.int64) if filled.any() else 0
    kept = letters[size != 0].tobytes()
    content = kept if code == "ascii" else kept.decode(code).encode()
    buffers = [None, pa.py_buffer(np.cumsum(ends)), pa.py_buffer(content)]
    return pa.Array.from_buffers(pa.large_string(), len(lengths), buffers)


@functools.cache
def table() -> np.ndarray:
    """What each of the first 65,536 code points becomes; 0: left out."""
    found = np.zeros(PLANE, np.uint16)
    for point in range(PLANE):
        letter = chr(point)
        lower = letter.lower()
        if not (letter.isspace() or unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zs", "Zl", "Zp")):
            found[point] = ord(lower) if len(lower) == 1 else point
    for letter, others in LOOKS.items():
        found[[ord(other) for other in others]] = ord(letter)
    found[[ord(letter) for letter in INVISIBLE + SPACE]] = 0
    return found


def pairs(names: pa.Array) -> Iterator[tuple[int, int]]:
    """(place, place) of names that look alike: the first of each group with each other one."""
    if len(names) < 2 or pc.all(pc.match_substring_regex(names, WHOLE_NUMBER)).as_py():
        return
    codes = keys(names).dictionary_encode().indices.to_numpy()
    count = np.bincount(codes)
    if count.max() == 1:
        return
    places = np.flatnonzero(count[codes] > 1)
    order = places[np.argsort(codes[places], kind="stable")]
    first = order[0]
    for place in order:
        if codes[place] != codes[first]:
            first = place
        elif place != first:
            yield int(first), int(place)


def look_alikes(where: str, names: pa.Array) -> tuple[list[LookAlike], int]:
    """(the first MOST pairs, how many there are)."""
    found, count = told(where, ((names[a].as_py(), names[b].as_py()) for a, b in pairs(names)))
    ends, more = ends_of_iris(where, names, names)
    return found + ends, count + more


def like_those(where: str, unknown: pa.Array, names: pa.Array) -> tuple[list[LookAlike], int]:
    """Names of a file that aren't among `names`, with what they look like there: as `look_alikes`."""
    unknown = pc.unique(unknown)
    if not len(unknown) or not len(names):
        return [], 0
    place = pc.index_in(keys(unknown), value_set=keys(names))
    found = np.flatnonzero(pc.is_valid(place).to_numpy(zero_copy_only=False))
    alike, count = told(where, ((names[place[int(at)].as_py()].as_py(), unknown[int(at)].as_py()) for at in found))
    for iris, others in ((names, unknown), (unknown, names)):
        ends, more = ends_of_iris(where, iris, others)
        alike, count = alike + ends, count + more
    return alike, count


def ends_of_iris(where: str, iris: pa.Array, names: pa.Array) -> tuple[list[LookAlike], int]:
    """Pairs of an IRI and a name that is its last part."""
    iris = iris.filter(pc.match_substring(iris, "://"))
    if not len(iris):
        return [], 0
    parts = last_part(iris)
    place = index_in(parts, names)
    found = np.flatnonzero((place >= 0) & pc.not_equal(parts, iris).to_numpy(zero_copy_only=False))
    some = [(iris[int(at)].as_py(), names[int(place[at])].as_py()) for at in found[:MOST]]
    return [LookAlike(where, a, b, END_OF_IRI) for a, b in some], len(found)


def told(where: str, texts: Iterable[tuple[str, str]]) -> tuple[list[LookAlike], int]:
    kept = [(a, b) for a, b in texts if a.replace("_", "") != b.replace("_", "")]  # ids such as /m/02js_6 and /m/02js6_
    return [LookAlike(where, a, b, difference(a, b)) for a, b in kept[:MOST]], len(kept)


def difference(first: str, second: str) -> str:
    """How two strings differ: case, or code points for those who can't see it."""
    if first.lower() == second.lower() and unicodedata.normalize("NFC", first) != unicodedata.normalize("NFC", second):
        return "case"
    spans = []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, first, second, autojunk=False).get_opcodes():
        if kind != "equal":
            spans.append(f"{code_points(first[a:b])} against {code_points(second[c:d])}")
    return ", ".join(spans[:SPANS]) + (", .." if len(spans) > SPANS else "")


def code_points(text: str) -> str:
    points = " ".join(f"U+{ord(letter):04X}" for letter in text[:POINTS])
    return (points + (" .." if len(text) > POINTS else "")) or "nothing"


def odd_names(names: pa.Array) -> tuple[int, list[str]]:
    """(how many names begin or end with white space, or hold what can't be seen; the first three of them)."""
    odd = names.filter(pc.match_substring_regex(names, ODD))
    return len(odd), odd.slice(0, 3).to_pylist()
