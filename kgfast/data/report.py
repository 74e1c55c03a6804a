"""What reading found, as data and in sentences: what was taken, what was not, and what looks odd."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

from kgfast.data.look_alikes import LookAlike

SHOWN_PAIRS = 5
SHOWN_FILES = 40
SHOWN_BAD = 20


@dataclass(frozen=True)
class InversePair:
    """`share` of the `triples` training triples (h, relation, t) have (t, inverse, h) in train too."""

    relation: str
    inverse: str
    share: float
    triples: int


@dataclass
class DataReport:
    """The facts about a graph as read; every dict is by split. Only the duplicates were removed."""

    name: str
    entities: int
    relations: int
    read: dict[str, int]
    duplicates: dict[str, int]  # repeated within their split, removed
    triples: dict[str, int]  # what is left
    self_loops: dict[str, int]
    leaked: dict[str, int]  # "test in train": triples of test that are also in train
    unseen_entities: dict[str, int]  # distinct ones of valid, of test, and of "all", that train lacks
    unseen_relations: dict[str, int]
    unseen_triples: dict[str, int]  # triples of valid or test with something that train lacks
    inverse_pairs: list[InversePair]  # by falling number of triples; symmetric: relation == inverse
    inverse_leaked: dict[str, int]  # triples of valid or test whose reverse is in train by one of these pairs
    fingerprint: str  # sha256 over names and triples
    literals: int = 0
    texts: dict[str, dict] = field(default_factory=dict)
    questions: dict[str, dict] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)  # what else the folder holds, with the reason if there is one
    headers: dict[str, str] = field(default_factory=dict)  # by file: what names of columns were taken for
    dropped: dict[str, list[str]] = field(default_factory=dict)  # by file: the columns that were not read
    look_alikes: list[LookAlike] = field(default_factory=list)  # pairs of names, the first thousand of each kind
    look_alike_count: int = 0
    bad_lines: dict[str, dict] = field(default_factory=dict)  # "count" by file; "first": [place, reason] by file
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Plain numbers, strings, lists and dicts, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> DataReport:
        pairs = [InversePair(**pair) for pair in content["inverse_pairs"]]
        alike = [LookAlike(**pair) for pair in content["look_alikes"]]
        return cls(**{**content, "inverse_pairs": pairs, "look_alikes": alike})

    def add_look_alikes(self, pairs: list[LookAlike], count: int) -> None:
        self.look_alikes = [*self.look_alikes, *pairs]
        self.look_alike_count += count

    def lines(self) -> list[str]:
        """The report as short sentences; what is zero or absent isn't mentioned."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.triples.items() if count)
        lines = [f"{shown(self.name)}: {self.entities:,} entities, {self.relations:,} relations; triples: {counts}."]
        lines += self.reading()
        for split, count in self.duplicates.items():
            if count:
                lines.append(f"{split}: {count:,} of {self.read[split]:,} triples were repeated and removed.")
        if self.literals:
            lines.append(f"{self.literals:,} statements with a literal as object were left out.")
        for pair, count in self.leaked.items():
            if count:
                lines.append(f"Leakage: {count:,} triples of {pair.replace(' in ', ' are also in ')}; they were kept.")
        lines += self._unseen_lines()
        loops = sum(self.self_loops.values())
        if loops:
            lines.append(f"{_count(loops, 'triple')} from an entity to itself.")
        lines += self._inverse_lines()
        for role, found in self.texts.items():
            total = self.relations if role.startswith("relation") else self.entities
            line = f"{found['file']}: {role.replace('_', ' ')} for {found['covered']:,} of {total:,}"
            lines.append(line + _extras(found, unknown="for names not in the graph", repeated="repeated") + ".")
        for split, found in self.questions.items():
            kept = found["read"] - found["unknown_topic"] - found["no_known_answer"]
            line = f"{found['file']}: {kept:,} of {found['read']:,} questions for {split}"
            words = {"unknown_topic": "with an unknown topic", "no_known_answer": "without a known answer"}
            lines.append(line + _extras(found, **words, unknown_answers="unknown answers beside known ones") + ".")
        return [*lines, f"Fingerprint {self.fingerprint[:16]}."]

    def reading(self) -> list[str]:
        """What was not taken, what was taken for a header, and what looks odd, in sentences."""
        lines = [f"{shown(file)} was not read: {reason}." for file, reason in self.unread.items() if reason]
        others = [shown(file) for file, reason in self.unread.items() if not reason]
        if others:
            more = f" and {len(others) - SHOWN_FILES:,} more" if others[SHOWN_FILES:] else ""
            lines.append(f"Not read: {', '.join(others[:SHOWN_FILES])}{more}.")
        lines += [f"{file}: {what}." for file, what in self.headers.items()]
        for file, names in self.dropped.items():
            columns = "column" if len(names) == 1 else "columns"
            lines.append(f"{file}: the {columns} {', '.join(names)} {'was' if len(names) == 1 else 'were'} not read.")
        return [*lines, *self._bad_lines(), *self._look_alike_lines(), *self.notes]

    def _bad_lines(self) -> Iterator[str]:
        for file, count in self.bad_lines.get("count", {}).items():
            found = self.bad_lines["first"][file]
            were = "was" if count == 1 else "were"
            yield f"{shown(file)}: {_count(count, 'line')} can't be read and {were} left out:"
            yield from (f"  {place}: {reason}" for place, reason in found[:SHOWN_BAD])
            if count > SHOWN_BAD:
                yield f"  and {count - SHOWN_BAD:,} more; --json tells of {len(found):,}"

    def _look_alike_lines(self) -> Iterator[str]:
        for where in dict.fromkeys(pair.where for pair in self.look_alikes):
            for case in (True, False):
                there = [pair for pair in self.look_alikes if pair.where == where]
                pairs = [pair for pair in there if (pair.difference == "case") == case]
                what = f"{where[0].upper()}{where[1:]}" if where in ("entities", "relations") else f"{where}: names"
                if pairs:
                    some = "; ".join(map(str, pairs[:SHOWN_PAIRS]))
                    more = f"; and {len(pairs) - SHOWN_PAIRS:,} more pairs" if pairs[SHOWN_PAIRS:] else ""
                    yield f"{what} that {'differ in case alone' if case else 'look alike'}: {some}{more}."
        if self.look_alike_count > len(self.look_alikes):
            yield f"({self.look_alike_count:,} pairs of names look alike; {len(self.look_alikes):,} of them are kept.)"

    def _unseen_lines(self) -> Iterator[str]:
        what = [
            f"{unseen['all']:,} {kind if unseen['all'] != 1 else single}"
            for unseen, kind, single in (
                (self.unseen_entities, "entities", "entity"),
                (self.unseen_relations, "relations", "relation"),
            )
            if unseen["all"]
        ]
        if what:
            where = " and ".join(f"{count:,} of {split}" for split, count in self.unseen_triples.items() if count)
            where = f" ({where} triples hold one; they were kept)" if where else ""
            yield f"{' and '.join(what)} never occur in train{where}."

    def _inverse_lines(self) -> Iterator[str]:
        symmetric = [pair for pair in self.inverse_pairs if pair.relation == pair.inverse]
        inverse = [pair for pair in self.inverse_pairs if pair.relation != pair.inverse]
        for pairs, kind in ((symmetric, "symmetric"), (inverse, "the inverse of")):
            for pair in pairs[:SHOWN_PAIRS]:
                what = f"{kind} {shown(pair.inverse)}" if pairs is inverse else kind
                triples = _count(pair.triples, "training triple")
                yield f"{shown(pair.relation)} is {what} in {pair.share:.0%} of {triples}."
            if pairs[SHOWN_PAIRS:]:
                more = "inverse pairs" if pairs is inverse else "symmetric relations"
                yield f"({len(pairs) - SHOWN_PAIRS:,} more {more}, with fewer triples)"
        for split, count in self.inverse_leaked.items():
            if count:
                share = count / self.triples[split]
                yield f"Leakage: {count:,} of {split} ({share:.0%}) are in train, turned around, this way."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _extras(counts: dict, **words: str) -> str:
    parts = [f"{counts[key]:,} {text}" for key, text in words.items() if counts[key]]
    return f"; left out: {', '.join(parts)}" if parts else ""


def shown(name: str) -> str:
    """A name as a sentence holds it: quoted and escaped where it has more than printable characters inside."""
    return name if name.isprintable() and name == name.strip() else repr(name)
