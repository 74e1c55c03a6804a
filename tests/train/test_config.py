"""Training settings: what is refused and how it is said, and which source wins."""

from dataclasses import replace

import pytest

from kgfast.errors import ConfigError
from kgfast.reference import SCORES, find_score
from kgfast.run.reading import read_yaml
from kgfast.run.schedule import learning_rate
from kgfast.train import RECIPES, TrainConfig, resolve
from kgfast.train.config import unused


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (dict(dim="many"), ["dim='many'", "integer"]),
        (dict(dim=0), ["dim=0", "greater than 0"]),
        (dict(lr=float("nan")), ["lr=nan", "finite"]),
        (dict(model="transx"), ["model='transx'", "'transe_l1'", "'rescal'"]),
        (dict(negative_sharing="all"), ["negative_sharing='all'", "'none', 'chunk' or 'batch'"]),
        (dict(device="tpu"), ["device='tpu'", "cpu, cuda or cuda:N"]),
        (dict(negativs=3), ["'negativs'", "did you mean negatives"]),
        (dict(zzz=3), ["'zzz'", "known settings", "batch_size"]),
        (dict(recipe="complex-n4"), ["recipe='complex-n4'", "complex-n3", "rotate"]),
        (dict(recipe="joint"), ["recipe='joint'", "trains tasks jointly", "complex-n3"]),
        (dict(model="rotate", dim=33), ["dim=33", "even", "rotate"]),
        (
            dict(candidates="all", objective="logistic"),
            ["objective='logistic'", "'softmax' or 'bce'", "candidates=all"],
        ),
        (
            dict(negative_filter="redraw", negative_sharing="batch"),
            ["negative_filter='redraw'", "'none' or 'mask'"],
        ),
        (dict(regularizer="n3"), ["regularizer_weight", "positive", "n3"]),
        (
            dict(model="rotate", candidates="all", objective="softmax", relation_weight=1.0),
            ["relation_weight=1.0", "rotate"],
        ),
        (dict(tables="host", candidates="all", objective="softmax"), ["tables='host'", "candidates=all"]),
        (dict(seed=-1), ["seed=-1"]),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(settings, said):
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**{"data": "world", **settings})
    for part in said:
        assert part in str(caught.value)


def test_data_is_required():
    with pytest.raises(ConfigError, match="data is missing: dataset folder"):
        TrainConfig()


def test_all_errors_are_reported_at_once():
    with pytest.raises(ConfigError, match=r"dim=0.*lr=-1"):
        TrainConfig(data="world", dim=0, lr=-1)


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_are_valid(recipe, tmp_path):
    config = TrainConfig(data="world", recipe=recipe)
    for key, value in RECIPES[recipe].items():
        assert getattr(config, key) == value
    assert not unused(config).keys() & RECIPES[recipe].keys()
    config.save(tmp_path / "config.yaml")
    assert TrainConfig.load(tmp_path / "config.yaml") == config


def test_precedence(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("recipe: complex-n3\ndata: world\nlr: 1e-2\nbatch-size: 10\nthreads: 2\n")
    config = resolve(file, ["batch_size=20", "threads=3"], {"threads": 4, "dim": None})
    assert config.model == "complex" and config.reciprocal  # recipe over default
    assert config.dim == RECIPES["complex-n3"]["dim"]  # an option that wasn't given
    assert config.lr == 0.01  # file over recipe; YAML 1.1 reads 1e-2 as text
    assert config.batch_size == 20  # pair over file
    assert config.threads == 4  # option over pair
    assert config.seed == 0  # default


def test_pairs_are_text_that_is_converted():
    config = resolve(None, ["data=7", "dim=12", "reciprocal=true", "epochs=null", "minutes=1.5", "--batch-size=3"])
    assert (config.data, config.dim, config.reciprocal) == ("7", 12, True)
    assert (config.epochs, config.minutes, config.batch_size) == (None, 1.5, 3)


def test_bad_pairs_and_files(tmp_path):
    with pytest.raises(ConfigError, match="'dim' is not a key=value pair"):
        resolve(None, ["dim"])
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read"):
        resolve(tmp_path / "absent.yaml")
    for content, said in (
        ("a: [", "not YAML"),
        ("- 1", "must hold"),
        ("dimm: 3", "'dimm'; did you mean dim"),
    ):
        file = tmp_path / "bad.yaml"
        file.write_text(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml: .*" + said):
            resolve(file)
    file.write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match="not YAML"):
        resolve(file)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (dict(recipe="complex-n3", negatives=100), "negatives=100 has no effect: candidates=all"),
        (dict(relation_weight=2.0), "relation_weight=2.0 has no effect: it needs candidates=all"),
        (dict(objective="softmax", margin=1.0), "margin=1.0 has no effect: it needs objective=logistic"),
        (dict(early_stopping_patience=3), "early_stopping_patience=3 has no effect: it needs validate_every"),
        (dict(regularizer_weight=0.1), "regularizer_weight=0.1 has no effect"),
    ],
)
def test_settings_without_effect_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        resolve(None, [], {"data": "world", **options})


def test_settings_of_a_recipe_may_lose_their_effect():
    config = resolve(None, [], dict(data="world", recipe="transe", objective="softmax"))
    assert config.objective == "softmax" and "margin" in unused(config)


def test_a_saved_configuration_comes_back(tmp_path):
    config = TrainConfig(data="world", recipe="transe", objective="softmax", minutes=3, out=str(tmp_path), resume=True)
    config.save(tmp_path / "config.yaml")
    again = resolve(None, [], dict(out=str(tmp_path), resume=True, epochs=7))
    ignored = {*unused(config), "epochs"}
    assert again.model_dump(exclude=ignored) == config.model_dump(exclude=ignored)
    assert again.epochs == 7
    assert "margin" not in (tmp_path / "config.yaml").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_replace_checks_again_and_configurations_are_frozen():
    config = TrainConfig(data="world", dim=8)
    assert config.replace(dim=10).dim == 10 and config.dim == 8
    with pytest.raises(ConfigError, match="dim=9: must be even"):
        config.replace(dim=9)
    with pytest.raises(ValueError):
        config.dim = 3


def test_a_score_that_was_registered_is_a_choice(monkeypatch):
    score = find_score("distmult")
    with pytest.raises(ConfigError, match="model='mine': must be"):
        TrainConfig(data="world", model="mine")
    monkeypatch.setitem(SCORES, "mine", replace(score, name="mine", even_dim=True))
    assert TrainConfig(data="world", model="mine").model == "mine"
    with pytest.raises(ConfigError, match="dim=9: must be even for model=mine"):
        TrainConfig(data="world", model="mine", dim=9)


def test_epochs_default_only_without_minutes():
    assert TrainConfig(data="world").epochs == 100
    assert TrainConfig(data="world", minutes=1).epochs is None
    assert TrainConfig(data="world", model="transe").model == "transe_l1"


def test_learning_rate_schedules():
    def rates(**settings):
        config = TrainConfig(data="world", lr=1.0, **settings)
        return [learning_rate(config, step, 100, 0.0) for step in (0, 50, 100)]

    assert rates() == [1, 1, 1]
    assert rates(lr_schedule="linear", lr_final=0.2) == pytest.approx([1, 0.6, 0.2])
    assert rates(lr_schedule="cosine", lr_final=0.0) == pytest.approx([1, 0.5, 0])
    assert rates(lr_schedule="step", lr_final=0.1) == pytest.approx([1, 0.1, 0.1])
    assert rates(warmup=100) == pytest.approx([0.01, 0.51, 1])
    timed = TrainConfig(data="world", lr=1.0, lr_schedule="linear", lr_final=0.0, minutes=1)
    assert learning_rate(timed, 10, None, 45.0) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: world\nlr: 0.1\nlr: 0.5\n", "the key 'lr' stands twice, in lines 2 and 3"),
        ("data: world\nlr: 0.1\nlr: 0.1\n", "the key 'lr' stands twice"),
        ("data: world\n'lr': 0.1\n\"lr\": 0.5\n", "the key 'lr' stands twice"),
        ("data: world\nbatch-size: 8\nbatch_size: 9\n", "the setting batch_size stands twice, once as 'batch_size'"),
        ("{data: world, dim: 4, dim: 8}\n", "the key 'dim' stands twice"),
        (
            "data: world\ntasks:\n  mlm: {weight: 1}\n  mlm: {weight: 2}\n",
            "the key 'mlm' stands twice, in lines 3 and",
        ),
        ("data: world\nentities: {kind: text, kind: table}\n", "the key 'kind' stands twice"),
        ("data: world\ncorpus: [{a: 1, a: 2}]\n", "the key 'a' stands twice"),
        ("a: &a {lr: 1, lr: 2}\nb: *a\n", "the key 'lr' stands twice"),
        ("1: a\n1: b\n", "the key 1 stands twice"),
        ("1: a\n'1': b\n", "the setting 1 stands twice"),
        ("null: a\n~: b\n", "the key None stands twice"),
        ("? [a, b]\n: 1\n", "not YAML"),
    ],
)
def test_a_key_that_stands_twice(tmp_path, text, message):
    file = tmp_path / "twice.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=rf"twice\.yaml: .*{message}"):
        read_yaml(file)


def test_keys_that_yaml_merges_may_be_overridden(tmp_path):
    file = tmp_path / "merge.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\n")
    assert read_yaml(file)["b"] == {"x": 3, "y": 2}


def test_what_is_said_of_columns(tmp_path):
    (tmp_path / "train.tsv").write_text("was\twie\twen\nb\tknows\ta\n")
    for header, columns in (
        ("yes", "3,2,1"),
        (True, [3, 2, 1]),
        ("auto", "wen,wie,was"),
        (None, ["wen", "wie", "was"]),
    ):
        config = TrainConfig(data=str(tmp_path), header=header, columns=columns)
        graph = config.load_graph()
        assert [graph.entity_names[i] for i in graph.train[0, [0, 2]]] == ["a", "b"]
        config.save(tmp_path / "config.yaml")
        assert TrainConfig.load(tmp_path / "config.yaml") == config
    with pytest.raises(ConfigError, match="header='maybe'"):
        TrainConfig(data="world", header="maybe")
