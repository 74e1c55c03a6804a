"""What was found while reading a graph: duplicates, leakage between splits, the unseen, inverse relations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from kgfast.data.strings import Strings

INVERSE_SHARE = 0.8
SHOWN_PAIRS = 5
LARGEST = np.iinfo(np.int64).max


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
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict:
        """Plain numbers, strings, lists and dicts, fit for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict) -> DataReport:
        return cls(**{**content, "inverse_pairs": [InversePair(**pair) for pair in content["inverse_pairs"]]})

    def lines(self) -> list[str]:
        """The report as short sentences; what is zero or absent isn't mentioned."""
        counts = ", ".join(f"{count:,} {split}" for split, count in self.triples.items() if count)
        lines = [f"{self.name}: {self.entities:,} entities, {self.relations:,} relations; triples: {counts}."]
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
        for role, counts in self.texts.items():
            total = self.relations if role.startswith("relation") else self.entities
            line = f"{counts['file']}: {role.replace('_', ' ')} for {counts['covered']:,} of {total:,}"
            lines.append(line + _extras(counts, unknown="for names not in the graph", repeated="repeated") + ".")
        for split, counts in self.questions.items():
            kept = counts["read"] - counts["unknown_topic"] - counts["no_known_answer"]
            line = f"{counts['file']}: {kept:,} of {counts['read']:,} questions for {split}"
            words = {"unknown_topic": "with an unknown topic", "no_known_answer": "without a known answer"}
            lines.append(line + _extras(counts, **words, unknown_answers="unknown answers beside known ones") + ".")
        return [*lines, *self.notes, f"Fingerprint {self.fingerprint[:16]}."]

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
                what = f"{kind} {pair.inverse}" if pairs is inverse else kind
                triples = _count(pair.triples, "training triple")
                yield f"{pair.relation} is {what} in {pair.share:.0%} of {triples}."
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


def examine(name: str, splits: dict[str, np.ndarray], entities: Strings, relations: Strings):
    """(splits without duplicates, DataReport). `splits` are int64 [M, 3] whose ids are in range.

    Sorts all triples twice; memory some ten int64 per triple.
    """
    read = {split: len(rows) for split, rows in splits.items()}
    keys = _keys(splits, len(entities), len(relations))
    for split in splits:
        keys[split], first = _distinct(keys[split])
        if first is not None:
            splits = {**splits, split: splits[split][first]}
    leaked = {
        f"{later} in {earlier}": _count_in(keys[later], keys[earlier])
        for later, earlier in (("valid", "train"), ("test", "train"), ("test", "valid"))
    }
    del keys
    pairs, inverse_leaked = inverse_relations(splits, len(entities), relations)
    return splits, DataReport(
        name=name,
        entities=len(entities),
        relations=len(relations),
        read=read,
        duplicates={split: read[split] - len(rows) for split, rows in splits.items()},
        triples={split: len(rows) for split, rows in splits.items()},
        self_loops={split: int((rows[:, 0] == rows[:, 2]).sum()) for split, rows in splits.items()},
        leaked=leaked,
        **_unseen(splits, len(entities), len(relations)),
        inverse_pairs=pairs,
        inverse_leaked=inverse_leaked,
        fingerprint=fingerprint(splits, entities, relations),
    )


def _keys(splits: dict[str, np.ndarray], num_entities: int, num_relations: int) -> dict[str, np.ndarray]:
    """One int64 a triple, equal where the triples are equal, in any split."""
    rows = np.concatenate(list(splits.values()))
    front = rows[:, 1] * num_entities + rows[:, 0]
    if num_relations * num_entities * num_entities > LARGEST:
        front = np.unique(front, return_inverse=True)[1]  # at most as many values as triples, so the product fits
    key = front * num_entities + rows[:, 2]
    return dict(zip(splits, np.split(key, np.cumsum([len(rows) for rows in splits.values()])[:-1]), strict=True))


def _distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """(distinct keys ascending, where each occurs first, ascending, or None if none repeats)."""
    ascending = np.sort(keys)
    if (ascending[1:] != ascending[:-1]).all():  # the usual case needs no slower argsort
        return ascending, None
    distinct, first = np.unique(keys, return_index=True)
    return distinct, np.sort(first)


def _count_in(keys: np.ndarray, others: np.ndarray) -> int:
    """How many of `keys` are among `others`; both ascending and distinct."""
    if not len(others):
        return 0
    place = np.minimum(np.searchsorted(others, keys), len(others) - 1)
    return int((others[place] == keys).sum())


def _unseen(splits: dict[str, np.ndarray], num_entities: int, num_relations: int) -> dict[str, dict[str, int]]:
    train = splits["train"]
    seen_entity, seen_relation = np.zeros(num_entities, bool), np.zeros(num_relations, bool)
    seen_entity[train[:, 0]] = seen_entity[train[:, 2]] = True
    seen_relation[train[:, 1]] = True
    entities = {"all": int((~seen_entity).sum())}
    relations = {"all": int((~seen_relation).sum())}
    triples = {}
    for split in ("valid", "test"):
        rows = splits[split]
        known = seen_entity[rows[:, 0]] & seen_entity[rows[:, 2]] & seen_relation[rows[:, 1]]
        entities[split] = len(np.unique(rows[:, [0, 2]][~seen_entity[rows[:, [0, 2]]]]))
        relations[split] = len(np.unique(rows[:, 1][~seen_relation[rows[:, 1]]]))
        triples[split] = int((~known).sum())
    return {"unseen_entities": entities, "unseen_relations": relations, "unseen_triples": triples}


def inverse_relations(splits: dict[str, np.ndarray], num_entities: int, relations: Strings):
    """(InversePairs of train with a share of at least INVERSE_SHARE, triples of valid and test leaked by
    them).

    Joins the pairs (head, tail) of train with the reversed ones by sorting; a triple from an entity to itself
    is its own reverse and has no part.
    """
    train = splits["train"]
    train = train[train[:, 0] != train[:, 2]]
    pair = train[:, 0] * num_entities + train[:, 2]
    order = np.argsort(pair, kind="stable")
    pair, relation = pair[order], train[order, 1]

    def reversed_in_train(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(row, relation of a training triple that is this row turned around), one entry for every such
        triple.
        """
        key = rows[:, 2] * num_entities + rows[:, 0]
        by_key = np.argsort(key)  # ascending queries keep the binary search in cache
        start = np.searchsorted(pair, key[by_key], "left")
        count = np.searchsorted(pair, key[by_key], "right") - start
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        return np.repeat(by_key, count), relation[np.repeat(start, count) + within]

    number = len(relations)
    row, inverse = reversed_in_train(train)
    codes, common = np.unique(train[row, 1] * number + inverse, return_counts=True)
    sizes = np.bincount(train[:, 1], minlength=number)
    share = common / sizes[codes // number]
    strong = share >= INVERSE_SHARE
    codes, share = codes[strong], share[strong]
    by_size = np.lexsort((codes, -sizes[codes // number]))
    pairs = [
        InversePair(relations[int(c) // number], relations[int(c) % number], float(s), int(sizes[int(c) // number]))
        for c, s in zip(codes[by_size], share[by_size], strict=True)
    ]
    leaked = {}
    for split in ("valid", "test"):
        rows = splits[split]
        row, inverse = reversed_in_train(rows)
        by_pair = np.isin(rows[row, 1] * number + inverse, codes) & (rows[row, 0] != rows[row, 2])
        found = np.zeros(len(rows), bool)
        found[row[by_pair]] = True
        leaked[split] = int(found.sum())
    return pairs, leaked


def fingerprint(splits: dict[str, np.ndarray], entities: Strings, relations: Strings) -> str:
    """Hex sha256 over the names in order of their ids and the triples in order, little-endian int64."""
    digest = hashlib.sha256()
    for names in (entities, relations):
        digest.update(np.array([len(names)], "<i8"))
        for part in names.buffers():
            digest.update(np.ascontiguousarray(part))
    for split in ("train", "valid", "test"):
        rows = np.ascontiguousarray(splits[split], "<i8")
        digest.update(np.array([len(rows)], "<i8"))
        digest.update(rows)
    return digest.hexdigest()
