"""Questions as people ask them: which part of a model answers, what it says, and when it doesn't know."""

import pytest
from joint_helpers import joint_config, run_joint

import kgfast
from kgfast.errors import ConfigError, DataError
from kgfast.joint.ask import LANGUAGE, LINK, QUESTION
from kgfast.joint.tasks.qa.kinds import COUNT, YES_NO

pytest.importorskip("transformers")
pytest.importorskip("rapidfuzz")
pytestmark = pytest.mark.slow  # they ask a run that learns for seconds

LANDS = ("Arland", "Borland", "Corland", "Dorland", "Erland", "Forland")
TONGUES = ("Arish", "Borish")
SPEAKS = (0, 1, 0, 1, 1, 0)  # the tongue of each land; a land borders the next one, round and round
WORDINGS = {
    "borders": ("which lands border {x}", "who is next to {x}", "does {x} border {y}", "how many lands border {x}",
                "which lands border {x} and {y}"),
    "speaks": ("what is spoken in {x}", "is {y} spoken in {x}", "do they speak {y} in {x}", "what do {x} folk speak"),
    "^speaks": ("where is {x} spoken", "which lands speak {x}", "how many lands speak {x}", "which {y} lands use {x}"),
    "?": ("who rules {x}", "how old is {x}", "what is the flag of {x}", "is {x} large"),
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A joint run on six lands and two tongues, whose questions have few wordings."""
    folder = tmp_path_factory.mktemp("lands")
    borders = [(a, LANDS[(i + step) % 6]) for i, a in enumerate(LANDS) for step in (1, 5)]
    speaks = [(land, TONGUES[SPEAKS[i]]) for i, land in enumerate(LANDS)]
    facts = [(a, "borders", b) for a, b in borders] + [(a, "speaks", b) for a, b in speaks]
    pairs = {"borders": borders, "speaks": speaks, "^speaks": [(b, a) for a, b in speaks], "?": []}
    lines = []
    for path, wordings in WORDINGS.items():
        for topic in TONGUES if path == "^speaks" else LANDS:
            answers = [b for a, b in pairs[path] if a == topic]
            for wording in wordings:
                other = answers[0] if answers else "Arish"
                lines.append(f"{wording.format(x=topic, y=other)}\t{topic}\t{'|'.join(answers)}\n")
    names = {*LANDS, *TONGUES}
    data = folder / "lands"
    data.mkdir()
    (data / "train.txt").write_text("".join("\t".join(fact) + "\n" for fact in facts))
    (data / "entity2text.txt").write_text("".join(f"{name}\t{name}\n" for name in sorted(names)))
    (data / "entity2desc.txt").write_text("".join(f"{name}\t{name} is a name.\n" for name in sorted(names)))
    (data / "entity2alias.txt").write_text("Arland\tOld Land\nBorish\tOld Land\n")
    (data / "qa_train.txt").write_text("".join(lines))
    (data / "qa_valid.txt").write_text("".join(lines[::5]))
    tasks = {
        "clm": {"batch_size": 4, "weight": 0.1},
        "link": {"batch_size": 32},
        "qa": {"batch_size": 32, "max_hops": 2},
    }
    settings = dict(data=str(data), entities={"kind": "hybrid"}, steps=300, lr=1e-2, table_lr=0.1)
    settings["backbone"] = dict(kind="gpt", hidden=32, layers=1, heads=2, max_length=24)
    run_joint(joint_config(folder / "run", tasks, **settings), kgfast.KnowledgeGraph.load(data, cache=False))
    return kgfast.load(folder / "run")


def told(found):
    known = [answer["name"] for answer in found["answers"] if answer["known"]]
    return [found["by"], found["value"], *(sorted(known) if found["by"] != YES_NO else ())]


def test_what_answers_and_what_it_says(run):
    expected = {
        "which lands border Arland?": [QUESTION, None, "Borland", "Forland"],
        "which lands border old land?": [QUESTION, None, "Borland", "Forland"],  # an alias, of a tongue too
        "which lands border Arlnad?": [QUESTION, None, "Borland", "Forland"],  # a slip
        "which lnads border Arland?": [QUESTION, None, "Borland", "Forland"],
        "which lands border Arland and Corland?": [QUESTION, None, "Borland"],
        "what is spoken in Corland?": [QUESTION, None, "Arish"],
        "does Arland border Borland?": [YES_NO, "yes"],
        "does Arland border Dorland?": [YES_NO, "no"],
        "do they speak Borish in Borland?": [YES_NO, "yes"],
        "how many lands border Corland?": [COUNT, 2, "Borland", "Dorland"],
    }
    replies = run.ask(list(expected), k=3, always=True)
    for question, found in zip(expected, replies, strict=True):
        assert told(found) == expected[question], (question, found)
        assert all(answer["support"] for answer in found["answers"] if answer["known"])
    assert sum(found["knows"] for found in replies) >= len(expected) - 2
    (step,) = run.ask("do they speak Borish in Borland?")["answers"][0]["support"]
    assert (step["head"], step["relation"], step["tail"]) == ("Borland", "speaks", "Borish")


def test_it_does_not_know(run):
    assert run.asker.task.reader.answerable is not None
    for question in ("who rules Corland?", "how old is Erland?", "is Borland large?"):
        found = run.ask(question)
        assert (found["knows"], found["value"], found["answers"]) == (False, None, []), question
    nothing = run.ask("where is it?")
    assert (nothing["topic"], nothing["topics"], nothing["knows"], nothing["answers"]) == (None, [], False, [])
    assert run.ask("who rules Corland?", always=True)["answers"]


def test_links_and_blanks_go_to_their_heads(run):
    found = run.ask("Arland speaks", k=2)
    assert (found["by"], found["topics"], found["knows"]) == (LINK, ["Arland"], None)
    predicted = run.predict(head="Arland", relation="speaks", k=2, known="ignore", loops=True)
    assert [one["name"] for one in found["answers"]] == [one["name"] for one in predicted]
    (step,) = found["answers"][0]["support"]
    assert (step["head"], step["relation"], step["tail"]) == ("Arland", "speaks", found["answers"][0]["name"])
    turned = run.ask("speaks Borish?", k=3)
    predicted = run.predict(relation="speaks", tail="Borish", k=3, known="ignore", loops=True)
    assert [one["name"] for one in turned["answers"]] == [one["name"] for one in predicted]
    blank = run.ask("Arland is a ____.", k=8)
    assert blank["by"] == LANGUAGE and len(blank["answers"]) == 8
    assert sum(answer["probability"] for answer in blank["answers"]) == pytest.approx(1, abs=1e-5)


def test_what_is_wrong_is_named(run):
    with pytest.raises(DataError, match="no entity is named 'Gorland'"):
        run.ask("what is spoken there?", "Gorland")
    with pytest.raises(DataError, match="is empty"):
        run.ask(" ")
    with pytest.raises(ConfigError, match="k=9"):
        run.ask("what is spoken in Arland?", k=9)
    run.asker.linker.entities["arish"] = (*range(8), 0)
    try:
        with pytest.raises(DataError, match="'arish' may be .* or others: name the topic"):
            run.ask("where is Arish spoken?")
    finally:
        run.__dict__.pop("asker")
