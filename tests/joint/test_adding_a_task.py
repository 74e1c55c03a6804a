"""docs/adding_a_task.md is true: its file is a task, its package makes it known, its commands train and evaluate it."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from kgfast.cli.main import main
from kgfast.data import KnowledgeGraph
from kgfast.errors import ConfigError
from kgfast.joint import tasks
from kgfast.joint.config import JointConfig

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_task.md").read_text(encoding="utf-8")
NAME = "slots"


def blocks(language):
    """(file, text) of the page's blocks in a language; file is None where the page names none."""
    pattern = rf"^(?:<!-- file: (\S+) -->\n)?```{language}\n(.*?)^```$"
    return [(found[1], found[2]) for found in re.finditer(pattern, PAGE, re.M | re.S)]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the page's files, installed as a package of which nothing was imported so far."""
    for language in ("python", "yaml"):
        for file, text in blocks(language):
            (tmp_path / file).write_text(text, encoding="utf-8")
    ((_, declared),) = blocks("toml")
    ((group, entries),) = re.findall(r'^\[project\.entry-points\."(\S+)"\]\n(.*)', declared, re.S)
    about = tmp_path / "slots-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: slots\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(f"[{group}]\n{entries.replace(chr(34), '')}")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    tasks.TASKS.pop(NAME, None)
    sys.modules.pop(NAME, None)


def test_the_page_adds_a_task(project, capsys):
    assert NAME in tasks.task_names() and NAME not in sys.modules
    ((_, commands),) = blocks("sh")
    printed = []
    for line in commands.splitlines():
        words = shlex.split(line)[1:]
        with pytest.raises(SystemExit) as end:
            main([*words, "tensorboard=false", "threads=1"] if words[0] == "train" else words)
        output = capsys.readouterr()
        assert not end.value.code, output.err
        printed.append(output.out)
    found = json.loads((project / "runs" / "slots" / "metrics.json").read_text())["tasks"][NAME]
    slots = 2 * KnowledgeGraph.load("world").num_relations
    chance = sum(1 / rank for rank in range(1, slots + 1)) / slots
    assert found["test"]["mrr"] > 3 * chance and found["test"]["slots"] > 50
    for output in printed:
        assert re.search(r"^slots +MRR", output, re.M) and f"{found['test']['mrr']:.4f}" in output
    assert "Results: slots" in (project / "runs" / "slots" / "report.html").read_text()


def test_a_batch_of_the_page_is_what_the_graph_says(project):
    made, graph = tasks.task_class(NAME), KnowledgeGraph.load("world")
    relations = graph.num_relations
    dims = tasks.ModelDims(0, 8, "complex", 8, graph.num_entities, relations)
    task = made(made.Options(), graph, None, dims, 0)
    shown = {(head, relation) for head, relation, _ in graph.train.tolist()}
    shown |= {(tail, relation + relations) for _, relation, tail in graph.train.tolist()}
    seen = set()
    for step in range(len(task)):
        batch = task.batch(step)
        for row, entity in enumerate(batch.entities.tolist()):
            seen |= {(entity, slot) for slot in batch.slots[batch.offsets[row] : batch.offsets[row + 1]].tolist()}
    assert seen == shown
    new = {tuple(pair) for pair in task.new_in("test").tolist()}
    asked = {(head, relation) for head, relation, _ in graph.test.tolist()}
    asked |= {(tail, relation + relations) for _, relation, tail in graph.test.tolist()}
    assert new == asked - shown


def test_its_settings_are_checked_as_all_others(project):
    config = JointConfig(data="world", tasks={NAME: {"batch_size": 3}})
    assert config.options(NAME).batch_size == 3
    with pytest.raises(ConfigError, match=r"'tasks.slots.batchsize'; did you mean batch_size"):
        JointConfig(data="world", tasks={NAME: {"batchsize": 3}})


def test_a_name_stands_for_one_task(project):
    made = tasks.task_class(NAME)
    assert tasks.register(made) is made  # a notebook's cell that runs again
    other = type("Other", (made,), {"name": NAME})
    with pytest.raises(ConfigError, match=r"task 'slots' is slots.SlotTask already"):
        tasks.register(other)
