"""Builds the "world" data set from the tables beside this file: `python build.py [--check]`.

The tables (*.tsv) are the only source of facts; *.txt is generated from them, always byte for byte the same.
A column with several values separates them by "; ", and "-" is an empty column. Facts are as of January 2026:
- borders are land borders of the main territory, without overseas territories, bridges and disputed land;
- regions are the subregions of the United Nations; rivers name the countries that they cross or bound;
- official languages include those that are so in practice, and where there are very many, the widely spoken;
- cities, seas, rivers and organisations are the better-known ones;
- countries are the members of the United Nations and four more, which says nothing on who recognises whom.
Three rules keep held-out facts honest: both directions of a border fall into one split; no description states
a held-out fact of its entity; no question of qa_train needs a held-out fact, and none of qa_valid a fact of
test. Answers hold for the whole graph.
"""

from __future__ import annotations

import argparse
import re
import sys
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from kgfast.datasets.world import questions
from kgfast.datasets.world.tables import FOLDER, SPLITS, order, read_table

Triple: TypeAlias = tuple[str, str, str]  # head, relation, tail
Row: TypeAlias = dict[str, str]  # of a table: cells by column

HELD_OUT = 0.085  # of each relation, for test and again for valid
MAX_LISTED = 6  # names in one sentence of a description


@dataclass
class World:
    """Entities by name, with what is known of them, and the facts in the order of the tables."""

    labels: dict[str, str] = field(default_factory=dict)  # as in a sentence: "the Danube"
    kinds: dict[str, str] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)  # a predicate: "gave its name to a famous waltz"
    hints: dict[str, list[str]] = field(default_factory=dict)  # words that give a fact away without its label
    triples: list[Triple] = field(default_factory=list)

    def add(self, label, kind, colour=None):
        """Enter an entity, once, and return its name."""
        name = name_of(label)
        if name in self.labels:
            raise ValueError(f"{name!r} is both a {self.kinds[name]} and a {kind}: change one of the labels")
        self.labels[name], self.kinds[name] = label, kind
        if colour:
            self.colours[name] = colour
        return name

    def share(self, label, kind):
        """Enter an entity that many rows name, and return its name."""
        name = name_of(label)
        return name if self.kinds.get(name) == kind else self.add(label, kind)

    def find(self, label, kind):
        """Return the name of an entity that a table must have entered."""
        name = name_of(label)
        if self.kinds.get(name) != kind:
            raise ValueError(f"{label!r} is named as a {kind}, but no table has such a {kind}")
        return name

    def text(self, name):
        """Return the label on its own: without the article."""
        return self.labels[name].removeprefix("the ")


class Facts(defaultdict[str, list[Triple]]):
    """Facts by relation, in the order in which they are stated."""

    def __init__(self) -> None:
        super().__init__(list)

    def state(self, head: str, relation: str, tail: str) -> None:
        self[relation].append((head, relation, tail))


def name_of(label):
    """Return the ASCII name of a label: "Côte d'Ivoire" -> "cote_d_ivoire", "the Nile" -> "nile"."""
    plain = label.removeprefix("the ").lower().translate(str.maketrans({"đ": "d", "ł": "l", "ʻ": None}))
    plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def split_list(cell):
    """Return the values of a cell."""
    return [] if cell == "-" else cell.split("; ")


def load_world() -> World:
    """Read the tables and return the World; what contradicts itself is a ValueError."""
    names = ("countries", "cities", "rivers", "organisations", "places", "forms", "languages", "relations")
    tables = {name: list(read_table(name)) for name in names}
    world, facts = World(), Facts()
    forms = enter(world, tables)
    parts = {row["label"].removeprefix("the "): row["part_of"] for row in tables["places"]}
    for row in tables["countries"]:
        state_country(world, facts, row, forms, parts)
    for row in {row["label"]: row for row in tables["cities"]}.values():
        city = world.find(row["label"], "city")
        if row["country"] != "-":
            facts.state(city, "located_in", world.find(row["country"], "country"))
        if row["sea"] != "-":
            facts.state(city, "on_sea", world.find(row["sea"], "place"))
    for row in tables["rivers"]:
        state_river(world, facts, row)
    for row in tables["organisations"]:
        organisation = name_of(row["label"])
        if row["headquarters"] != "-":
            facts.state(organisation, "headquarters", world.find(row["headquarters"], "city"))
        for label in split_list(row["members"]):
            facts.state(world.find(label, "country"), "member_of", organisation)
    for row in tables["places"]:
        if row["part_of"] != "-":
            facts.state(name_of(row["label"]), "part_of", world.find(row["part_of"], "place"))
    for row in tables["languages"]:
        state_language(world, facts, row)
    state_units(world, facts)
    relations = [row["relation"] for row in tables["relations"]]
    check_facts(world, facts, relations)
    world.triples = [triple for relation in relations for triple in facts[relation]]
    repeated = {triple for triple in world.triples if world.triples.count(triple) > 1}
    if repeated:
        raise ValueError(f"facts stated twice: {sorted(repeated)}")
    return world


def enter(world: World, tables: dict[str, list[Row]]) -> dict[str, str]:
    """Enter every entity that has a row of its own, and capitals; return the names of the countries' traits by code."""
    forms, cities = {}, {row["label"]: row for row in tables["cities"]}

    def optional(cell: str) -> str | None:
        return None if cell == "-" else cell

    for row in tables["forms"]:
        forms[row["code"]] = name = world.add(row["label"], "trait of countries")
        world.hints[name] = split_list(row["hints"])
    for row in tables["countries"]:
        world.add(row["label"], "country", optional(row["colour"]))
    for row in tables["places"]:
        world.add(row["label"], "place", optional(row["colour"]))
    for label in dict.fromkeys(c for row in tables["countries"] for c in split_list(row["capital"])):
        world.add(label, "city", optional(cities.get(label, {"colour": "-"})["colour"]))
    for row in cities.values():
        if row["country"] != "-":
            world.add(row["label"], "city", optional(row["colour"]))
    for row in tables["rivers"]:
        world.add(row["label"], "river", optional(row["colour"]))
    for row in tables["organisations"]:
        world.add(row["label"], "organisation", optional(row["colour"]))
    return forms


def state_country(world: World, facts: Facts, row: Row, forms: dict[str, str], parts: dict[str, str]) -> None:
    """The facts of a country; `parts` has the continent of each region."""
    country = name_of(row["label"])
    for label in split_list(row["capital"]):
        facts.state(country, "capital", name_of(label))
    facts.state(country, "region", world.find(row["region"], "place"))
    facts.state(country, "continent", world.find(parts[row["region"].removeprefix("the ")], "place"))
    for label in split_list(row["borders"]):
        facts.state(country, "borders", world.find(label, "country"))
    for label in split_list(row["languages"]):
        facts.state(country, "official_language", world.share(label, "language"))
    facts.state(country, "currency", world.share(f"the {row['currency']}", "currency"))
    for relation in ("geography", "government", "traffic"):
        if row[relation] != "-":
            facts.state(country, relation, forms[row[relation]])
    for label in split_list(row["seas"]):
        facts.state(country, "coast_on", world.find(label, "place"))


def state_river(world: World, facts: Facts, row: Row) -> None:
    river = name_of(row["label"])
    if row["flows_into"] != "-":
        kind = "river" if world.kinds.get(name_of(row["flows_into"])) == "river" else "place"
        facts.state(river, "flows_into", world.find(row["flows_into"], kind))
    for label in split_list(row["countries"]):
        facts.state(river, "flows_through", world.find(label, "country"))
    for label in split_list(row["cities"]):
        facts.state(world.find(label, "city"), "on_river", river)


def state_language(world: World, facts: Facts, row: Row) -> None:
    """The group of a language, and the family of the group, which other languages share."""
    language, group = world.find(row["label"], "language"), world.share(row["group"], "language group")
    facts.state(language, "language_group", group)
    if row["family"] != "-":
        family = world.share(row["family"], "language family")
        if (group, "part_of", family) not in facts["part_of"]:
            facts.state(group, "part_of", family)


def state_units(world: World, facts: Facts) -> None:
    """The units of currencies; a unit of one currency would say nothing."""
    currencies = [name for name, kind in world.kinds.items() if kind == "currency" and name != "euro"]
    unit_of = {name: world.text(name).split()[-1] for name in currencies}
    units = list(unit_of.values())
    for currency, unit in unit_of.items():
        if units.count(unit) > 1:
            facts.state(currency, "unit", world.share(unit, "unit of money"))


def check_facts(world: World, facts: Facts, relations: list[str]) -> None:
    """The tables of relations and languages are complete, and every border has its mirror."""
    borders, languages = set(facts["borders"]), {n for n, kind in world.kinds.items() if kind == "language"}
    problems: dict[str, set[Any]] = {
        "relations that relations.tsv lacks or has too many": set(relations) ^ set(facts),
        "borders without mirror": {(h, r, t) for h, r, t in borders if (t, r, h) not in borders},
        "languages without a group": languages - {h for h, _, _ in facts["language_group"]},
    }
    for problem, bad in problems.items():
        if bad:
            raise ValueError(f"{problem}: {sorted(bad)}")


def hold_out(triples):
    """Return the split of each triple: a share of each relation, mirrors together, train facts for all."""
    split_of = dict.fromkeys(triples, "train")
    degree: dict[str, int] = defaultdict(int)
    for head, _, tail in triples:
        degree[head] += 1
        degree[tail] += 1
    by_relation: dict[str, dict[tuple[Triple, ...], float]] = defaultdict(dict)
    for h, r, t in triples:
        group = tuple(sorted({(h, r, t), (t, r, h)})) if r == "borders" else ((h, r, t),)
        by_relation[r][group] = order("split", *group[0])
    for groups in by_relation.values():
        wanted = round(HELD_OUT * sum(map(len, groups)))
        taken = dict.fromkeys(("test", "valid"), 0)
        for group in sorted(groups, key=groups.__getitem__):
            split = min(taken, key=taken.__getitem__)
            ends = [end for head, _, tail in group for end in (head, tail)]
            if taken[split] + len(group) > wanted or any(degree[end] - ends.count(end) < 1 for end in ends):
                continue
            for triple in group:
                split_of[triple] = split
            taken[split] += len(group)
            for end in ends:
                degree[end] -= 1
    return split_of


def join(labels):
    """Return names as a person lists them: "A, B and C"."""
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def states(sentence, text, hints=()):
    """Tell whether a sentence has the label, as whole words, or a word that begins with one of the hints."""
    found = re.search(rf"(?<!\w){re.escape(text)}(?!\w)", sentence)
    return bool(found or any(re.search(rf"\b{re.escape(h)}", sentence, re.IGNORECASE) for h in hints))


def describe(world, split_of):
    """Return {entity: description}: what the tables say in words, then train facts, and nothing held out."""
    templates = {row["relation"]: row for row in read_table("relations")}
    about: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    secret: dict[str, set[str]] = defaultdict(set)
    for (head, relation, tail), split in split_of.items():
        for end, other, side in ((head, tail, "head"), (tail, head, "tail")):
            if split != "train":
                secret[end].add(other)
            elif templates[relation][f"sentences about the {side}"] != "-":
                about[end][relation, side].append(other)
    result = {}
    for name, label in world.labels.items():

        def silent(words, name=name):
            """Tell whether words keep the secrets of this entity."""
            return not any(states(words, world.text(o), world.hints.get(o, ())) for o in secret[name])

        sentences = [f"{{It}} {world.colours[name]}."] if name in world.colours else []
        for relation, side in sorted(about[name], key=lambda key: order("sentence", name, *key)):
            others = [other for other in about[name][relation, side] if silent(world.labels[other])]
            others.sort(key=lambda other: order("listed", name, other))
            if not others:
                continue
            listed = join([world.labels[o] for o in others[:MAX_LISTED]])
            listed += ", among others" if len(others) > MAX_LISTED else ""
            choices = templates[relation][f"sentences about the {side}"].split(" ; ")
            choice = choices[int(order("variant", name, relation, side) * len(choices))]
            sentences.append(choice.replace("{t}" if side == "head" else "{h}", listed))
        kept = [sentence for sentence in sentences if silent(re.sub(r"\{\w+\}", "", sentence))]
        if not kept:
            kept = [f"{{It}} is a {world.kinds[name]}."]
        kept = kept[: 5 if world.kinds[name] == "country" else 3]
        # The first sentence bears the name; a sentence that would not name the entity is turned around.
        first = next((s for s in kept if "{It}" in s or "{h}" in s or "{t}" in s), None)
        if first is None:
            first = f"{{It}} is a {world.kinds[name]}."
        kept = [first, *(s for s in kept if s != first)]
        written = [re.sub(r"\{[ht]\}", label, kept[0].replace("{It}", label[0].upper() + label[1:]))]
        written += [re.sub(r"\{[ht]\}", label, sentence.replace("{It}", "It")) for sentence in kept[1:]]
        result[name] = re.sub(r"(?<= )a (?=[aeio])", "an ", " ".join(written))
    return result


def generate():
    """Return {file name: text} of the whole data set."""
    world = load_world()
    split_of = hold_out(world.triples)
    relations = {row["relation"]: row["text"] for row in read_table("relations")}
    lines = {
        **{f"{split}.txt": ["\t".join(x) for x in world.triples if split_of[x] == split] for split in SPLITS},
        "entity2text.txt": [f"{name}\t{world.text(name)}" for name in world.labels],
        "entity2desc.txt": [f"{name}\t{text}" for name, text in describe(world, split_of).items()],
        "relation2text.txt": [f"{name}\t{text}" for name, text in relations.items()],
    }
    lines["entity2alias.txt"] = ["\t".join((name, *names)) for name, names in aliases(world).items()]
    for prefix, asked in (("qa", questions.ask(world, split_of)), ("asked", questions.ask_freely(world, split_of))):
        for split, found in asked.items():
            lines[f"{prefix}_{split}.txt"] = [f"{q}\t{topic}\t{'|'.join(answers)}" for q, topic, answers in found]
    return {name: "\n".join(part) + "\n" for name, part in lines.items()}


def aliases(world):
    """Return {entity: other names} of the table; a label that no table has entered is an error."""
    names = {world.text(name): name for name in world.labels}
    return {names[row["label"]]: split_list(row["aliases"]) for row in read_table("aliases")}


def main(arguments=None):
    """Write the files, or with --check compare them with what would be written; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the world data set from its tables.")
    parser.add_argument("--check", action="store_true", help="only compare the files with the tables")
    check = parser.parse_args(arguments).check
    status = 0
    for name, text in generate().items():
        path, data = FOLDER / name, text.encode()
        if not check:
            partial = path.with_name(name + ".partial")
            partial.write_bytes(data)
            partial.replace(path)
        elif not path.is_file() or path.read_bytes() != data:
            print(f"{path} is not what the tables say: run build.py", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
