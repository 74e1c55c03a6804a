"""Which columns are head, relation and tail: as the caller says, or as the words of a header say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kgfast.core.codes import is_one_of
from kgfast.data.columns import COLUMNS, Counted
from kgfast.errors import DataError

# What headers call (head, tail); words of one line belong together.
ENDS = (
    ({"head"}, {"tail"}),
    ({"subject", "subj", "sub", "subjekt", "sujet", "sujeto"}, {"object", "obj", "objekt", "objet", "objeto"}),
    ({"source", "src"}, {"target", "tgt", "trg", "destination", "dest", "dst"}),
    ({"quelle", "origen", "origine"}, {"ziel", "destino", "cible"}),
    ({"头实体", "头节点", "主语", "主体", "起点"}, {"尾实体", "尾节点", "宾语", "客体", "终点"}),
    ({"from"}, {"to"}),
    ({"start"}, {"end"}),
    *(
        ({f"{word}{one}" for word in ("node", "entity", "ent", "e", "id", "arg", "argument", "concept", "item")},
         {f"{word}{two}" for word in ("node", "entity", "ent", "e", "id", "arg", "argument", "concept", "item")})
        for one, two in (("1", "2"), ("a", "b"))
    ),
    ({"subject", "item", "entity"}, {"value"}),
    ({"left"}, {"right"}),
    ({"x"}, {"y"}),
    ({"u"}, {"v"}),
)  # fmt: skip
RELATIONS = (
    {"relation", "rel", "relationship", "predicate", "pred", "property", "prop", "verb", "edge", "link", "interaction",
     "relationtype", "relationshiptype", "reltype", "edgetype", "linktype", "r", "p", "beziehung", "prädikat",
     "prédicat", "predicado", "relación", "relação", "关系", "谓语", "谓词"},
    {"type", "label", "kind"},  # only where nothing else is the relation: many tables have them beside it
)  # fmt: skip
# Words that name a column of relations and hardly ever a relation: one of them is enough for a doubt.
TITLES = set("relation relationship predicate relationtype relationshiptype reltype edgetype linktype".split())
LETTERS = (("h", "r", "t"), ("s", "p", "o"), ("s", "r", "o"))
ANY_END = tuple(set().union(*(pair[side] for pair in ENDS[:8])) for side in (0, 1))
KNOWN = {word for words in (*ANY_END, RELATIONS[0]) for word in words if len(word) > 1}
# Words that say what a name is, as in head_id or "relation name".
DECORATION = set("""id ids name names entity entities node nodes iri uri url index idx key label text mid qid code curie
    column col field string str value concept term item""".split())  # fmt: skip
KINDS_OF_VALUES = set("int long float double string boolean byte short char date datetime id label ignore".split())
TRUTH = set("label labels sign polarity truth truthvalue true istrue correct positive negative valid class y".split())
UNTRUE = ["-1", "-1.0", "0", "0.0", "-", "false", "f", "no", "n", "neg", "negative", "untrue", "wrong"]
NUMBERED = r"(?:unnamed|column|col|field|c|v)?[ _:.-]*(\d{1,6})"  # what programs call columns without a name
AFFIRMED = ["1", "1.0", "+1", "+", "true", "t", "yes", "y", "pos", "positive", "right"]
WAY_OUT = "columns=A,B,C (--columns) says which are head, relation and tail, by name or number from 1"


@dataclass(frozen=True)
class ColumnChoice:
    """What the caller says of columns, and of literals.

    header    True: the first line names columns; False: it is a triple; None: its words tell
    columns   head, relation and tail, by name or number from 1; None: by the header, or the first three
    literals  True: a literal of RDF is an entity too
    """

    header: bool | None = None
    columns: tuple[str, str, str] | None = None
    literals: bool = False

    @classmethod
    def of(cls, header=None, columns=None, literals="drop") -> ColumnChoice:
        """From arguments as people give them: yes, no, auto; "a,b,c" or a list of names and numbers; drop, keep."""
        if not is_one_of(literals, ("drop", "keep")):
            raise DataError(f"literals must be 'drop' or 'keep', not {literals!r}")
        keep = literals == "keep"
        words = {"yes": True, "true": True, "no": False, "false": False, "auto": None}
        given = words.get(header.lower(), header) if isinstance(header, str) else header
        if given is not None and not isinstance(given, bool):
            raise DataError(f"header must be yes, no or auto, not {header!r}")
        if columns is None:
            return cls(given, None, keep)
        if not isinstance(columns, (str, list, tuple)):
            raise DataError(f"columns must be three names or numbers, as in a,b,c, not {columns!r}")
        parts = columns.split(",") if isinstance(columns, str) else columns
        parts = tuple(str(part).strip() for part in parts)
        if len(parts) != 3 or not all(parts) or len(set(parts)) < 3:
            raise DataError(f"columns must be three different names or numbers, as in a,b,c, not {columns!r}")
        if {part.lower() for part in parts} == set(COLUMNS) and tuple(part.lower() for part in parts) != COLUMNS:
            raise DataError(
                f"columns={','.join(parts)}: they stand for head, relation and tail in this order; "
                "where the file has another, give numbers, as in 1,3,2"
            )
        return cls(given, parts, keep)

    def as_list(self) -> list:
        """For JSON."""
        return [self.header, self.columns and list(self.columns), *([True] if self.literals else [])]

    def check(self, source: object, formats: Sequence[Any]) -> None:
        """DataError where no file of these formats can follow what is said."""
        if (self.header is not None or self.columns) and not any(one.columns for one in formats):
            raise DataError(f"{source}: header and columns have no meaning, as no file of triples has columns")
        if self.literals and not any(one.iris for one in formats):
            raise DataError(f"{source}: literals have no meaning, as no file of triples is RDF")

    def check_table(self, source: object) -> None:
        """The same for a table or a query."""
        if self.header is not None or self.literals:
            given = "literals have" if self.literals else "header has"
            shown = source if isinstance(source, str) else "a table"
            raise DataError(f"{shown}: {given} no meaning, as its columns have names and its rows no literals of RDF")


@dataclass(frozen=True)
class Chosen:
    """Whether the first line is a header, and where head, relation and tail stand."""

    header: bool
    places: tuple[int, int, int] = (0, 1, 2)

    def told(self, fields: Sequence[str]) -> str:
        """The header in words."""
        names = [f"{role} is {title(fields, place)}" for role, place in zip(COLUMNS, self.places, strict=True)]
        return ", ".join(names)

    def dropped(self, fields: Sequence[str]) -> list[str]:
        """The names of the other columns."""
        names = fields if self.header else [""] * len(fields)
        return [title(names, place) for place in range(len(names)) if place not in self.places]


def title(names: Sequence[str], place: int) -> str:
    return repr(names[place].strip()) if names[place].strip() else f"number {place + 1}"


def choose(where: str, fields: Sequence[str], choice: ColumnChoice, named: bool = False) -> Chosen:
    """Where head, relation and tail stand in a file whose first line has these fields.

    named: the fields are names of columns in any case, as in Parquet. DataError, which says what was seen and what
    to say, where the words leave more than one way.
    """
    if choice.columns is not None:
        return told_columns(where, fields, choice, named)
    if choice.header is False and not named:
        return Chosen(False)
    places = find_roles(where, fields)
    if places is not None:
        return Chosen(True, places)
    if not named and not choice.header:
        return Chosen(False)
    if len(fields) == 3 and not named:
        return Chosen(True)
    words = [role for role, found in zip(COLUMNS, candidates(fields), strict=True) if not found] or list(COLUMNS)
    raise DataError(f"{where}: no column {', '.join(words)}; it has {', '.join(fields)}: {WAY_OUT}")


def told_columns(where: str, fields: Sequence[str], choice: ColumnChoice, named: bool) -> Chosen:
    names, wanted = [field.strip(' "') for field in fields], choice.columns or ()
    for name in wanted:
        if names.count(name) > 1:
            raise DataError(f"{where}: the column {name!r} stands twice: give numbers from 1 to {len(names)}")
    if all(name in names for name in wanted) and (named or choice.header is not False):
        return Chosen(True, three(names.index(name) for name in wanted))
    if all(name.isdecimal() and 1 <= int(name) <= len(names) for name in wanted):
        header = choice.header if choice.header is not None else find_roles(where, fields, strict=False) is not None
        return Chosen(named or header, three(int(name) - 1 for name in wanted))
    missing = [name for name in wanted if name not in names]
    wrong = f"no column {missing[0]!r}" if missing else "with header=no, columns have no names"
    raise DataError(
        f"{where}: {wrong}; the first line holds {', '.join(map(repr, names))}: "
        f"give names that stand there, or numbers from 1 to {len(names)}"
    )


def three(places: Iterable[int]) -> tuple[int, int, int]:
    head, relation, tail = places
    return head, relation, tail


def find_roles(where: str, fields: Sequence[str], strict: bool = True) -> tuple[int, int, int] | None:
    """Where head, relation and tail stand by the words of a header; None where they are no header."""
    for level in (plain, bare):
        words = [level(field) for field in fields]
        for letters in LETTERS:
            if sorted(words) == sorted(letters):
                return three(words.index(letter) for letter in letters)
        for heads, tails in (*ENDS, ANY_END, ({"h"}, {"t"}), ({"s"}, {"o"})):
            for relations in RELATIONS:
                found = [[i for i, word in enumerate(words) if word in role] for role in (heads, relations, tails)]
                short = all(len(words[i]) == 1 for places in found for i in places)
                if not all(found) or (short and len(fields) == 3):  # a, r, b are names of toy graphs
                    continue
                if strict:
                    refuse_several(where, fields, found)
                return three(places[0] for places in found)
    return None


def refuse_several(where: str, fields: Sequence[str], found: list[list[int]]) -> None:
    for role, places in zip(COLUMNS, found, strict=True):
        if len(places) > 1:
            names = [title(fields, place) for place in places]
            if names[0] == names[1]:
                raise DataError(f"{where}: the column {names[0]} stands twice in the header: {WAY_OUT}")
            raise DataError(f"{where}: {' and '.join(names)} may both be the {role}: {WAY_OUT}")


def candidates(fields: Sequence[str]) -> list[list[int]]:
    """The places of what may be head, relation, and tail."""
    words = [{plain(field), bare(field)} for field in fields]
    roles = (ANY_END[0] | {"h", "s"}, RELATIONS[0] | RELATIONS[1], ANY_END[1] | {"t", "o"})
    return [[i for i, found in enumerate(words) if found & role] for role in roles]


def looks_like_header(fields: Sequence[str]) -> bool:
    """Whether a line that wasn't taken for a header has two words of one, or a telling one, or counts its columns."""
    known = [field for field in fields if {plain(field), bare(field)} & KNOWN]
    numbered = [re.fullmatch(NUMBERED, field.strip().lower()) for field in fields]
    numbers = [int(found[1]) for found in numbered if found]
    counted = len(numbers) == len(fields) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    telling = any({plain(field), bare(field)} & TITLES for field in fields)
    return len(known) >= 2 or telling or (counted and numbers[0] in (0, 1))


def plain(field: str) -> str:
    """A header's word without case, marks, and what Neo4j puts around it."""
    text = field.strip(" \"'\ufeff\t")
    neo4j = re.search(r":(START|END)_ID\b|:(TYPE)\b", text, re.I)
    if neo4j:
        return (neo4j[1] or neo4j[2]).lower()
    front, _, back = text.rpartition(":")
    text = front if front and back.lower() in KINDS_OF_VALUES else back
    return "".join(tokens(text))


def bare(field: str) -> str:
    """A header's word also without what only says that it is a name: head for head_id, HeadEntity, 'head name'."""
    words = tokens(field.strip(" \"'\ufeff\t").rpartition(":")[2])
    return "".join(word for word in words if word not in DECORATION) or "".join(words)


def tokens(text: str) -> list[str]:
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def is_truth(field: str) -> bool:
    """Whether a column of this name may say which triples are true."""
    return plain(field) in TRUTH or bare(field) in TRUTH


def untrue(name: str, values: pa.Array | pa.ChunkedArray, named: bool = True) -> Counted | None:
    """A sentence where a column that was not read says of triples that they are false.

    named: its name says that it may; else all of its values must be of that kind.
    """
    text = pc.utf8_lower(pc.utf8_trim_whitespace(values.cast(pa.string())))
    count = pc.sum(pc.is_in(text, value_set=pa.array(UNTRUE))).as_py() or 0
    if not count or (not named and not pc.all(pc.is_in(text, value_set=pa.array(UNTRUE + AFFIRMED))).as_py()):
        return None
    return Counted(
        f"the column {name} holds -1, 0, false or the like for ", count, " of the triples, which were read as true"
    )


def header_doubt(line: str, reason: str) -> str:
    """What the report says of a first line that was read as a triple and may be a header."""
    return (
        f"line 1 may be a header, as {reason}; it was read as a triple: {line}. header=yes (--header) leaves it out, "
        "header=no keeps it and says nothing"
    )
