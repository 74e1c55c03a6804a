"""Joint settings: what is refused and how it is said, which source wins, and who is asked for a joint run."""

from pathlib import Path

import pytest

from kgfast.errors import ConfigError
from kgfast.joint.config import JointConfig, is_joint, resolve
from kgfast.joint.tasks import task_names
from kgfast.run.recipes import JOINT as RECIPES

LINK = {"tasks": {"link": {}}}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(tasks={"qaa": {}}), ["tasks.qaa", "there are clm, contrast, link"]),
        (dict(tasks={"qa": {"batchsize": 3}}), ["'tasks.qa.batchsize'", "did you mean batch_size"]),
        (dict(tasks={"qa": {"batch_size": 0}}), ["tasks.qa.batch_size=0", "greater than 0"]),
        (dict(tasks={"qa": 3}), ["tasks.qa=3", "section"]),
        (dict(tasks=3), ["tasks=3", "by name"]),
        (dict(tasks={}), ["at least one"]),
        (dict(), ["tasks is missing"]),
        (dict(LINK, backbone={"hiden": 3}), ["'backbone.hiden'", "did you mean hidden"]),
        (dict(LINK, backbone={"hidden": -3}), ["backbone.hidden=-3"]),
        (dict(LINK, backbone={"hidden": 30}), ["backbone.hidden=30", "multiple of backbone.heads=4"]),
        (dict(LINK, backbone=3), ["backbone=3", "section"]),
        (dict(LINK, bacbone={}), ["'bacbone'", "did you mean backbone"]),
        (dict(LINK, entities="texts"), ["entities.kind='texts'", "'hybrid'"]),
        (dict(LINK, sharing="harder"), ["sharing.mode='harder'"]),
        (dict(LINK, sharing={"experts": 4}), ["sharing.experts=4 has no effect", "hard"]),
        (dict(LINK, sharing={"mode": "routed", "pull": "l2"}), ["sharing.pull='l2' has no effect"]),
        (dict(LINK, weighting={"surgery": "pcgrad"}, mixing="round_robin"), ["pcgrad", "mixing.method=every"]),
        (dict(LINK, weighting="gradnorm", mixing="proportional"), ["gradnorm", "mixing.method=every"]),
        (dict(LINK, model="rotate", dim=33), ["dim=33", "even"]),
        (dict(LINK, lr=float("nan")), ["lr=nan"]),
        (dict(LINK, device="tpu"), ["device='tpu'"]),
        (dict(LINK, recipe="complex-n3"), ["recipe='complex-n3'", "joint, kgqa, text"]),
    ],
)
def test_errors_name_the_dotted_key_and_what_is_allowed(settings, said):
    with pytest.raises(ConfigError) as caught:
        JointConfig(data="world", **settings)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_valid_and_come_back(recipe, tmp_path):
    needed = {"backbone": {"path": "FOLDER"}} if recipe == "simkgc" else {}
    config = JointConfig(data="world", recipe=recipe, **needed)
    assert list(config.tasks) == list(RECIPES[recipe]["tasks"])
    config.save(tmp_path / "config.yaml")
    assert JointConfig.load(tmp_path / "config.yaml") == config.model_copy(update={"recipe": None})


def test_precedence_and_dots(tmp_path):
    file = tmp_path / "joint.yaml"
    file.write_text("recipe: joint\ndata: world\ndim: 32\ntasks:\n  link: {batch_size: 8}\n  qa:\nsharing: soft\n")
    pairs = ["tasks.qa.batch_size=32", "sharing.strength=0.5", "dim=48", "backbone.layers=1"]
    config = resolve(file, pairs, {"dim": 64, "lr": None})
    assert list(config.tasks) == ["link", "qa"]  # a file's tasks are the tasks
    assert config.tasks["link"] == {"batch_size": 8, "n3": RECIPES["joint"]["tasks"]["link"]["n3"]}
    assert config.tasks["qa"] == {"batch_size": 32}
    assert (config.sharing.mode, config.sharing.strength) == ("soft", 0.5)
    assert (config.dim, config.backbone.layers, config.entities.kind) == (64, 1, "hybrid")


@pytest.mark.parametrize("turned", [False, True])
def test_a_word_for_a_section_and_keys_of_it(turned, tmp_path):
    """In any order; the word says what the section is, whatever a file says of it."""
    file = tmp_path / "joint.yaml"
    file.write_text("data: world\ntasks: {mlm: {batch_size: 3}, link: {n3: 0.5}}\nsharing: {mode: soft, strength: 2}\n")

    def read(*pairs):
        return resolve(file, reversed(pairs) if turned else pairs)

    sharing = read("sharing=routed", "sharing.gate=token", "sharing.experts=3").sharing
    assert (sharing.mode, sharing.gate, sharing.experts, sharing.strength) == ("routed", "token", 3, None)
    backbone = read("backbone=some/folder", "backbone.max_length=32").backbone
    assert (backbone.path, backbone.max_length) == ("some/folder", 32)
    corpus = read("corpus.triples=false", "corpus=a.txt").corpus
    assert (corpus.files, corpus.triples) == (["a.txt"], False)
    assert read("sharing=null", "sharing.mode=routed").sharing.strength is None
    assert read("tasks=link,relation", "tasks.link.batch_size=8").tasks == {"link": {"batch_size": 8}, "relation": {}}
    assert read("tasks.link.batch_size=8").tasks == {"mlm": {"batch_size": 3}, "link": {"n3": 0.5, "batch_size": 8}}
    assert read("sharing.strength=3").sharing.strength == 3
    with pytest.raises(ConfigError, match="sharing.strength=.* has no effect with sharing.mode=hard"):
        read("sharing=hard", "sharing.strength=1")
    with pytest.raises(ConfigError, match="dim.x='3': dim has a value already"):
        read("dim=3", "dim.x=3")


def test_a_word_or_a_list_stands_for_a_section():
    config = JointConfig(data="world", tasks=["link", "mlm"], backbone="some/folder", weighting="dwa", corpus="a.txt")
    assert list(config.tasks) == ["link", "mlm"] and config.backbone.path == "some/folder"
    assert config.weighting.method == "dwa" and config.corpus.files == ["a.txt"]


def test_replace_checks_again_and_configurations_are_frozen():
    config = JointConfig(data="world", recipe="kgqa", steps=7)
    changed = config.replace(seed=3)
    assert (changed.seed, changed.recipe, changed.steps, changed.tasks) == (3, "kgqa", 7, config.tasks)
    with pytest.raises(ConfigError, match="dim=9"):
        config.replace(dim=9)
    with pytest.raises(ValueError):
        config.dim = 3


def test_an_end_is_given_or_ten_epochs():
    assert JointConfig(data="world", **LINK).epochs == 10
    assert JointConfig(data="world", **LINK, steps=3).epochs is None
    assert JointConfig(data="world", **LINK, minutes=3).epochs is None


def test_every_task_has_options():
    for name in task_names():
        if name != "clm":
            assert JointConfig(data="world", tasks=[name]).options(name).batch_size > 0


def test_who_is_asked(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("data: world\ntasks: {link: {}}\n")
    assert is_joint(file, [], {})
    file.write_text("data: world\nmodel: complex\n")
    assert not is_joint(file, [], {})
    assert is_joint(None, [], {"recipe": "kgqa"}) and is_joint(None, ["recipe=text"], {})
    assert is_joint(None, ["tasks.link.batch_size=3"], {}) and not is_joint(None, ["dim=3"], {"recipe": "transe"})
    JointConfig(data="world", recipe="text").save(tmp_path / "config.yaml")
    assert is_joint(None, [], {"out": str(tmp_path), "resume": True})


def test_bad_files_are_named(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("tasks: {link: {}}\ndimm: 3\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml: .*'dimm'; did you mean dim"):
        resolve(file)


def test_heads_on_a_command_line():
    for given, heads in (("embedding", ("embedding",)), ("following,embedding", ("following", "embedding"))):
        assert resolve(None, ["data=world", f"tasks.qa.heads={given}"]).options("qa").heads == heads
    with pytest.raises(ConfigError, match=r"tasks\.qa\.heads.*follow"):
        resolve(None, ["data=world", "tasks.qa.heads=follow"])


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "examples").glob("*.yaml")), ids=lambda file: file.stem
)
def test_examples_are_valid(file):
    assert "link" in resolve(file).tasks
