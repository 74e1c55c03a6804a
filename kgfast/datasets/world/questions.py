"""The questions of the data set: `qa_*`, a few wordings of each path, and `asked_*`, many wordings as people have them.

A path is a list of relations between dots, ^ for one against its direction. Of the wordings of asked_*, those that are
kept back stand in valid and test alone: there nothing is asked in words that training saw. A wording with {y} names
another entity; the answers are those of what is asked about {x}, whether {y} is one of them ("Does {x} border {y} ?")
or not. What nothing in the graph answers has no answers.
"""

from __future__ import annotations

import re
from collections import defaultdict

from kgfast.datasets.world.tables import SPLITS, order, read_table

MAX_ANSWERS = 20  # a question of qa_* with more is no question
MAX_QUESTIONS = {"train": 90, "valid": 9, "test": 14}  # of each path
KEPT_BACK = 0.16  # of the questions that need train facts only, shared by valid and test
MAX_FREE = 50  # answers of a question of asked_*
TOPICS = {"train": 1, "valid": 2, "test": 2}  # of each wording of asked_*
COMPOSED = 3  # training wordings of a path about each phrase
OF_TOPIC = re.compile(r"the (\w+) of \{x\} \?$")  # also said with a genitive
FEWEST = 5  # topics of a composed path: one that fewer have is chance
CHECKS = ("Is", "Are", "Does", "Do", "Has", "Have", "Can", "Did", "Would")  # what a question for yes or no begins with


def walk(index, topic, path):
    """Return the answers of a path, its topic never among them, and the triples that the walk needs."""
    reached = {topic}
    used: set[tuple[str, str, str]] = set()
    for step in path.split("."):
        edges = [edge for node in sorted(reached) for edge in index[step][node]]
        used.update(triple for _, triple in edges)
        reached = {end for end, _ in edges}
    return reached - {topic}, used


def ask(world, split_of):
    """Return {split: [(question, topic, answers)]}; the most secret fact that a question needs decides."""
    index = steps(split_of)
    result: dict[str, list[tuple[str, str, list[str]]]] = {split: [] for split in SPLITS}
    for row in read_table("questions"):
        path, templates = row["path"], row["question"].split(" ; ")
        asked = dict.fromkeys(SPLITS, 0)
        starts = index[path.split(".")[0]]
        for topic in sorted(starts, key=lambda name: order("question", path, name)):
            answers, used = walk(index, topic, path)
            if not 1 <= len(answers) <= MAX_ANSWERS:
                continue
            split = max((split_of[triple] for triple in used), key=SPLITS.index)
            if split == "train" and order("kept back", path, topic) < KEPT_BACK:
                split = "valid" if order("which", path, topic) < 0.5 else "test"
            if asked[split] == MAX_QUESTIONS[split]:
                continue
            asked[split] += 1
            template = templates[int(order("template", path, topic) * len(templates))]
            label = world.labels[topic]
            result[split].append((worded(template, label), topic, sorted(answers)))
    return result


def steps(split_of):
    """Return {step: {entity: [(where it leads, the triple)]}} of all triples, either way."""
    index: dict[str, dict[str, list]] = defaultdict(lambda: defaultdict(list))
    for head, relation, tail in split_of:
        index[relation][head].append((tail, (head, relation, tail)))
        index["^" + relation][tail].append((head, (head, relation, tail)))
    return index


def worded(template, label, other=""):
    """Return a template as a question about a label."""
    question = template.replace("{x}", label).replace("{y}", other)
    for mark in ("?", ".", ",", "'s"):
        question = question.replace(f" {mark}", mark)
    return question[0].upper() + question[1:]


def ask_freely(world, split_of):
    """Return {split: [(question, topic, answers)]}: each wording of a split of a few topics, by train facts alone."""
    index = steps({triple: split for triple, split in split_of.items() if split == "train"})
    result: dict[str, list[tuple[str, str, list[str]]]] = {split: [] for split in SPLITS}
    for row in [*read_table("questions"), *read_table("wordings")]:
        path = row["path"]
        starts = index[path.split(".")[0]]
        ends = sorted({end for edges in index[path.split(".")[-1]].values() for end, _ in edges})
        reached = {topic: sorted(walk(index, topic, path)[0]) for topic in sorted(starts)}
        reached = {topic: found for topic, found in reached.items() if 1 <= len(found) <= MAX_FREE}
        for split, wording in wordings(row):
            for topic in sorted(reached, key=lambda name: order("free", split, wording, name))[: TOPICS[split]]:
                other = companion(index, wording, topic, reached[topic], ends)
                question = worded(wording, world.labels[topic], world.labels[other])
                result[split].append((question, topic, reached[topic]))
        misplace(world, row, reached, result)
    compose(world, index, result)
    for row in read_table("unanswerable"):
        topics = sorted(name for name, kind in world.kinds.items() if kind == row["kind"])
        for split, wording in wordings(row):
            chosen = sorted(topics, key=lambda name: order("free", split, wording, name))
            for place in range(TOPICS[split]):
                question = worded(wording, world.labels[chosen[place]], world.labels[chosen[-1 - place]])
                result[split].append((question, chosen[place], []))
    return result


def misplace(world, row, reached, result):
    """Add to valid and test what is asked of a kind of entity that has none of it: "What is the capital of the Nile?"

    In training the same words have answers elsewhere, so that only the graph can tell."""
    kinds = {world.kinds[topic] for topic in reached}
    others = sorted(name for name, kind in world.kinds.items() if kind not in kinds)
    for split, wording in wordings(row):
        if split != "train" and "{y}" not in wording and "." not in row["path"]:
            topic = min(others, key=lambda name: order("misplaced", wording, name))
            result[split].append((worded(wording, world.labels[topic]), topic, []))


def compose(world, index, result):
    """Add training questions about a phrase: "the countries that border {x}" for {x} in the wordings of a path."""
    asked = [(row["path"], list(wordings(row))) for row in read_table("wordings") if "." not in row["path"]]
    for row in read_table("phrases"):
        phrases = row["phrase"].split(" ; ")
        for second, words in asked:
            path = f"{row['path']}.{second}"
            reached = {topic: sorted(walk(index, topic, path)[0]) for topic in sorted(index[path.split(".")[0]])}
            topics = [topic for topic, found in reached.items() if 1 <= len(found) <= MAX_ANSWERS]
            if len(topics) < FEWEST:
                continue
            fitting = [word for split, word in words if split == "train" and "{y}" not in word and "'s" not in word]
            for wording in sorted(fitting, key=lambda word: order("composed", path, word))[:COMPOSED]:
                topic = min(topics, key=lambda name: order("composed", path, wording, name))
                phrase = phrases[int(order("phrase", path, wording) * len(phrases))]
                question = worded(wording.replace("{x}", phrase), world.labels[topic])
                result["train"].append((question, topic, reached[topic]))


def wordings(row):
    """Yield (split, wording) of a row: those kept back are asked in valid and test in turns."""
    for wording in row["question"].split(" ; "):
        yield "train", wording
        if wording.startswith("What is "):
            yield "train", wording.replace("What is", "What's", 1)
        if OF_TOPIC.search(wording):
            yield "train", OF_TOPIC.sub(r"{x} 's \1 ?", wording)
    for place, wording in enumerate(row["kept"].split(" ; ") if "kept" in row else ()):
        yield ("valid", "test")[(place + int(order("kept", row["kept"]) * 2)) % 2], wording


def companion(index, wording, topic, answers, ends):
    """Return the entity that stands for {y}: of a question for yes or no one that may answer it, else one from where
    the answers are reached too."""
    if wording.split()[0] in CHECKS:
        candidates = answers if order("yes", wording, topic) < 0.5 else [end for end in ends if end != topic]
    else:
        answer = min(answers, key=lambda name: order("shared", wording, topic, name))
        candidates = sorted({end for step in index for end, _ in index[step].get(answer, ())} - {topic}) or [answer]
    return min(candidates, key=lambda name: order("companion", wording, topic, name))
