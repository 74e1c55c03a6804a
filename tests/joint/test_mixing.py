"""Mixing: which tasks a step has, and the alarm for one that starves."""

from collections import Counter

import pytest

from kgfast.errors import ConfigError
from kgfast.joint.balance.mixing import METHODS, Mixing, Starvation

SIZES = {"mlm": 64, "link": 16, "qa": 4}


def drawn(method, steps=6000, **options):
    mixing = Mixing(method, SIZES, **options)
    return Counter(name for step in range(steps) for name in mixing.tasks(step))


def test_every_task_each_step():
    mixing = Mixing("every", SIZES)
    assert mixing.tasks(5) == ["mlm", "link", "qa"] and mixing.per_epoch == 64


def test_round_robin_takes_turns():
    mixing = Mixing("round_robin", SIZES)
    assert [mixing.tasks(step)[0] for step in range(4)] == ["mlm", "link", "qa", "mlm"]
    assert mixing.per_epoch == 84


def test_shares_are_as_the_formula_says():
    proportional, temperature = drawn("proportional"), drawn("temperature", temperature=2.0)
    even = drawn("temperature", temperature=1e9)
    for name, size in SIZES.items():
        assert proportional[name] / 6000 == pytest.approx(size / 84, abs=0.02)
        assert temperature[name] / 6000 == pytest.approx(size**0.5 / (8 + 4 + 2), abs=0.02)
        assert even[name] / 6000 == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_is_a_function_of_the_seed(method):
    first, second = Mixing(method, SIZES, seed=1), Mixing(method, SIZES, seed=1)
    forward = [first.tasks(step) for step in range(3000)]
    assert [second.tasks(step) for step in reversed(range(3000))][::-1] == forward
    if method in ("proportional", "temperature"):
        assert [Mixing(method, SIZES, seed=2).tasks(step) for step in range(50)] != forward[:50]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("all", SIZES), "mixing='all'"), (("every", {}), "needs a batch"), (("every", {"qa": 0}), "needs a batch")],
)
def test_bad_settings(arguments, said):
    with pytest.raises(ConfigError, match=said):
        Mixing(*arguments)


def test_a_starving_task_raises_one_alarm_each_time():
    starvation = Starvation(["mlm", "qa"], steps=100)
    weights = {"mlm": 1.0, "qa": 1.0}
    assert starvation.alarms(99, {"mlm": 98, "qa": 0}, weights) == {}
    found = starvation.alarms(100, {"mlm": 98, "qa": 0}, weights)
    assert list(found) == ["qa"] and "none of the last 100 steps" in found["qa"]
    assert starvation.alarms(150, {"mlm": 149, "qa": 0}, weights) == {}  # said already
    assert starvation.alarms(160, {"mlm": 149, "qa": 155}, weights) == {}  # it is fed
    assert list(starvation.alarms(300, {"mlm": 299, "qa": 155}, weights)) == ["qa"]
    found = starvation.alarms(301, {"mlm": 299, "qa": 300}, {"mlm": 1.0, "qa": 1e-3})
    assert found == {}  # the alarm stands, for another reason
    assert (
        "its weight is 0.001"
        in Starvation(["mlm", "qa"], 100).alarms(9, {"mlm": 8, "qa": 8}, {"mlm": 1, "qa": 1e-3})["qa"]
    )
