"""YAML that is no settings: one line that names the file and the place, at once."""

import time

import pytest

from kgfast.errors import ConfigError
from kgfast.run.reading import read_yaml
from kgfast.train import TrainConfig

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{','.join([f'*{before}'] * 12)}]}}\n"
    for before, name in zip("abcdef", "bcdefg", strict=True)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000))
WRONG = {
    "aliases": (BOMB, "too large, or too deep, once its aliases are written out"),
    "merges": (MERGES, "too large, or too deep"),
    "chain of aliases": (CHAIN, "too large, or too deep"),
    "itself": ("a: &a [*a]", "holds itself"),
    "itself merged": ("a: &a {<<: *a}", "holds itself"),
    "brackets": ("dim: " + "[" * 200_000, "nested too deeply"),
    "braces": ("dim: " + "{a: " * 5000, "nested too deeply"),
    "lists in lists": ("- " * 50_000 + "x", "nested too deeply"),
    "keys of keys": ("? " * 50_000 + "x", "nested too deeply"),
    "digits": ("dim: " + "9" * 5000, "line 1: '9999.* is no int"),
    "no int": ("lr: 1\ndim: !!int abc", "line 2: 'abc' is no int"),
    "no float": ("lr: !!float abc", "'abc' is no float"),
    "no bool": ("resume: !!bool maybe", "'maybe' is no bool"),
    "no date": ("dim: !!timestamp 2001-13-45", "is no timestamp"),
    "no date at all": ("dim: !!timestamp abc", "is no timestamp"),
    "no binary": ("dim: !!binary '\u00e9'", "not YAML"),
    "objects": ("dim: !!python/object/apply:os.system [true]", "not YAML"),
    "unknown tag": ("dim: !mine 3", "not YAML"),
    "control": ("dim: 'a\x07'", "not YAML"),
    "halves": (b"dim: \xed\xa0\x80", "cannot be read"),
    "no utf-8": (b"dim: \xff", "cannot be read"),
    "key of a list": ("[a]: 1", "not YAML"),
    "huge key": (f"? 0x{'f' * 5000}\n: 1", "no key is a number of this size"),
    "twice": ("lr: 1\nlr: 2", "the key 'lr' stands twice, in lines 1 and 2"),
    "twice inside": ("a: {lr: 1, lr: 2}", "the key 'lr' stands twice"),
    "twice as words": ("batch_size: 1\nbatch-size: 2", "batch_size stands twice"),
    "undefined": ("a: *b", "not YAML"),
    "two documents": ("a: 1\n---\nb: 2", "not YAML"),
    "large": ("# " + "x" * (1 << 20), "has more than 1,048,576 bytes"),
    "a list": ("[1, 2]", "must hold `key: value` lines"),
}


NUMBERS = {
    "010": "010",
    "-07": "-07",
    "1:30": "1:30",
    "1:30.5": "1:30.5",
    "0": 0,
    "-12": -12,
    "1_000": 1000,
    "0x10": 16,
}
NUMBERS |= {"0b11": 3, "1.5": 1.5, ".5": 0.5, "1.": 1.0, "-1.5e+3": -1500.0, ".inf": float("inf"), "yes": True}


@pytest.mark.parametrize("text", NUMBERS)
def test_numbers_are_those_of_today(tmp_path, text):
    """YAML 1.1 takes 010 for eight and 1:30 for ninety."""
    (tmp_path / "c.yaml").write_text(f"x: {text}")
    found = read_yaml(tmp_path / "c.yaml")["x"]
    assert found == NUMBERS[text] and type(found) is type(NUMBERS[text])


@pytest.mark.parametrize("text", ["yes", "true", "off"])
@pytest.mark.parametrize("name", ["lr", "batch_size", "minutes", "epochs", "init_scale"])
def test_no_number_is_a_yes(tmp_path, name, text):
    (tmp_path / "c.yaml").write_text(f"data: world\n{name}: {text}")
    with pytest.raises(ConfigError, match=f"{name}=(True|False): must be a number, not yes or no"):
        TrainConfig.load(tmp_path / "c.yaml")


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_said_at_once(tmp_path, what):
    content, said = WRONG[what]
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    begin = time.process_time()
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{said}") as caught:
        read_yaml(path)
    assert time.process_time() - begin < 5
    assert len(str(caught.value)) < 500 + len(str(path)) and "\n" not in str(caught.value)


def test_what_yaml_has_is_there(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("base: &b {x: 1, y: 2}\na: *b\nb: {<<: *b, x: 3}\nday: 2001-01-02\nhex: 0x10\nnothing: null\n")
    found = read_yaml(path)
    assert found["a"] == {"x": 1, "y": 2} and found["b"] == {"x": 3, "y": 2}
    assert found["day"] == "2001-01-02" and found["hex"] == 16 and found["nothing"] is None


@pytest.mark.parametrize("name", ["data", "out", "recipe", "columns"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_is_no_path(name, text):
    with pytest.raises(ConfigError, match=f"{name}=.*(must be text without NUL|is unknown)"):
        TrainConfig(**{"data": "world", name: text})


ODD = [[], {}, [[]], {"a": {"b": 1}}, None, True, -1, 10**400, 1e308, float("nan"), "", "a\0", [None], b"x", {1, 2}]


@pytest.mark.parametrize("name", TrainConfig.model_fields)
def test_no_value_of_a_setting_ends_in_a_traceback(name):
    for value in ODD:
        try:
            TrainConfig(**{"data": "world", name: value})
        except ConfigError as error:
            assert len(str(error)) < 2000, (name, value)
