"""The world data set: consistent facts, splits that don't leak, words that agree with the graph."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "kgfast" / "datasets" / "world"
SPLITS = ("train", "valid", "test")
FUNCTIONAL = {
    "region", "continent", "currency", "geography", "government", "traffic", "located_in", "flows_into",
    "language_group", "headquarters", "part_of", "unit", "capital",
}  # fmt: skip
GIVEN_AWAY = {  # words that state a fact without the label of its tail
    "monarchy": r"monarch|kingdom|\bking|queen|princ|duchy|sultan|emirate|throne",
    "island_country": r"\bisland|\bisle|archipelag|atoll",
    "landlocked_country": r"landlocked",
    "coastal_country": r"\bcoast",
    "republic": r"republic",
}


def read(name):
    data = (FOLDER / name).read_bytes()
    assert b"\r" not in data and data.endswith(b"\n"), name
    return [tuple(line.split("\t")) for line in data.decode().splitlines()]


@pytest.fixture(scope="module")
def triples():
    return {split: read(f"{split}.txt") for split in SPLITS}


@pytest.fixture(scope="module")
def facts(triples):
    return [triple for split in SPLITS for triple in triples[split]]


@pytest.fixture(scope="module")
def texts():
    return dict(read("entity2text.txt"))


@pytest.fixture(scope="module")
def descriptions():
    return dict(read("entity2desc.txt"))


def has_words(text, words):
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def test_size(facts):
    assert len({h for h, r, _ in facts if r == "continent"}) >= 193
    assert len(facts) >= 3000
    assert sum(path.stat().st_size for path in FOLDER.glob("*.txt")) < 1_000_000


def test_splits_are_disjoint_and_known_from_train(triples, facts):
    assert len(set(facts)) == len(facts)
    entities = {end for h, _, t in triples["train"] for end in (h, t)}
    relations = {r for _, r, _ in triples["train"]}
    for split in ("valid", "test"):
        assert 0.07 < len(triples[split]) / len(facts) < 0.09
        assert {r for _, r, _ in triples[split]} == relations
        assert {end for h, _, t in triples[split] for end in (h, t)} <= entities


def test_borders_are_symmetric_within_a_split(triples):
    for split in SPLITS:
        borders = {(h, t) for h, r, t in triples[split] if r == "borders"}
        assert borders and borders == {(t, h) for h, t in borders}
        assert all(h != t for h, t in borders)


def test_no_other_fact_of_a_held_out_pair_is_an_inverse(triples, facts):
    pairs = defaultdict(list)
    for h, r, t in facts:
        pairs[frozenset((h, t))].append(r)
    for split in ("valid", "test"):
        for h, r, t in triples[split]:
            assert pairs[frozenset((h, t))] == (["borders"] * 2 if r == "borders" else [r]), (h, r, t)


def test_functional_relations_have_one_value(facts):
    values = defaultdict(set)
    for h, r, t in facts:
        if r in FUNCTIONAL:
            values[h, r].add(t)
    several = {key for key, found in values.items() if len(found) > 1}
    assert several == {("south_africa", "capital")}
    countries = {h for h, r, _ in facts if r == "continent"}
    for relation in ("region", "currency", "geography", "traffic"):
        assert {h for h, r, _ in facts if r == relation} == countries
    assert countries - {h for h, r, _ in facts if r == "capital"} == {"vatican_city"}
    capitals = [t for _, r, t in facts if r == "capital"]
    assert len(set(capitals)) == len(capitals)


def test_regions_lie_in_the_continent_of_their_countries(facts):
    part_of = {h: t for h, r, t in facts if r == "part_of"}
    region = {h: t for h, r, t in facts if r == "region"}
    for h, r, t in facts:
        if r == "continent":
            assert part_of[region[h]] == t


def test_position_agrees_with_borders_and_coasts(facts):
    position = {h: t for h, r, t in facts if r == "geography"}
    at_sea = {h for h, r, t in facts if r == "coast_on" and t != "caspian_sea"}
    with_neighbours = {h for h, r, _ in facts if r == "borders"}
    for country, kind in position.items():
        assert (kind == "landlocked_country") == (country not in at_sea), country
        assert kind != "landlocked_country" or country in with_neighbours


def test_every_entity_and_relation_has_words(facts, texts, descriptions):
    entities = {end for h, _, t in facts for end in (h, t)}
    assert set(texts) == set(descriptions) == entities
    assert len(set(texts.values())) == len(texts)
    assert set(dict(read("relation2text.txt"))) == {r for _, r, _ in facts}
    for name, text in texts.items():
        assert re.fullmatch(r"[a-z0-9_]+", name) and text.strip() == text != ""
        said = descriptions[name]
        assert has_words(said, text[0].upper() + text[1:]) or has_words(said, text)
        assert said.endswith(".") and not re.search(r"[{}]| \.| a (?=[aeio])", said)


def test_descriptions_state_no_held_out_fact(triples, texts, descriptions):
    for split in ("valid", "test"):
        for h, r, t in triples[split]:
            for end, other in ((h, t), (t, h)):
                said = re.sub(rf"(?<!\w){re.escape(texts[end])}(?!\w)", "", descriptions[end])
                assert not has_words(said, texts[other]), (end, r, other)
                hint = GIVEN_AWAY.get(other)
                assert hint is None or not re.search(hint, said, re.IGNORECASE), (end, r, other)


def answers(facts_by_step, topic, path):
    """The walk again, on sets: the ends of the path and the facts on the way."""
    here, seen = {topic}, set()
    for step in path.split("."):
        edges = {(a, b, fact) for a, b, fact in facts_by_step[step] if a in here}
        here, seen = {b for _, b, _ in edges}, seen | {fact for *_, fact in edges}
    return here - {topic}, seen


def test_questions_are_answered_by_the_graph(triples, facts, texts):
    by_step = defaultdict(list)
    for h, r, t in facts:
        by_step[r].append((h, t, (h, r, t)))
        by_step["^" + r].append((t, h, (h, r, t)))
    paths = defaultdict(list)
    for path, templates in read("questions.tsv")[1:]:
        for template in templates.split(" ; "):
            paths[template.replace(" ?", "?").replace(" .", ".").lower()].append(path)
    split_of = {fact: split for split in SPLITS for fact in triples[split]}
    asked, hops = defaultdict(set), defaultdict(int)
    for split in SPLITS:
        for question, topic, expected in read(f"qa_{split}.txt"):
            question, text = question.lower(), texts[topic].lower()
            wordings = [question.replace(label, "{x}") for label in ("the " + text, text)]
            path = next(path for w in wordings for path in paths.get(w, ()))
            found, seen = answers(by_step, topic, path)
            assert sorted(found) == expected.split("|"), question
            # What a split may use: nothing that a later split holds back.
            assert all(SPLITS.index(split_of[fact]) <= SPLITS.index(split) for fact in seen), question
            assert (topic, path) not in asked[split]
            asked[split].add((topic, path))
            hops[path.count(".") + 1] += 1
    assert not asked["train"] & asked["valid"] and not (asked["train"] | asked["valid"]) & asked["test"]
    assert sum(hops.values()) >= 1500 and min(hops[1], hops[2], hops[3]) >= 100


def test_files_are_what_the_tables_say():
    command = [sys.executable, str(FOLDER / "build.py"), "--check"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
