"""Half a minute of fuzzing, the same in each run; `make fuzz` is longer."""

import ast
import random
import warnings
from pathlib import Path

import mutated_files
import pytest
import right_calls
import wrong_calls
from hypothesis import HealthCheck, given, settings
from right_inputs import cases
from wrong_functions import FUNCTIONS, NO_RIGHT_CALL, STEPS

FOUND = Path(__file__).with_name("found.txt")  # cases that failed once


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_wrong_argument_is_named(name):
    """Every argument, every value that is wrong for it; backends by turns."""
    if name not in NO_RIGHT_CALL:
        wrong_calls.right_call(name)
    impls = ("cpu", "reference") if FUNCTIONS[name].impls and name not in STEPS else (None,)
    arguments, asked, found = wrong_calls.arguments_of(name), 0, []
    for argument, about in arguments.items():
        for word in about.wrong:
            case = name, {argument: word}, impls[asked % len(impls)]
            asked, said = asked + 1, wrong_calls.complaint(*case)
            found += [f"{case}: {said}"] if said else []
    assert asked and not found, "\n".join(found)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_numbers_are_those_of_the_specification(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right_calls.check(case)


@pytest.mark.parametrize("kind", mutated_files.SEEDS)
def test_files_are_right_before_they_are_changed(kind, tmp_path):
    mutated_files.write_kind(kind, tmp_path)
    mutated_files.READERS.get(kind, mutated_files.read_graph)(tmp_path, random.Random(0))


def test_a_changed_file_is_read_or_refused():
    found = {number: said for number in range(300) if (said := mutated_files.complaint(number, seed=1))}
    assert not found, found


@pytest.mark.parametrize("line", FOUND.read_text(encoding="utf-8").splitlines())
def test_what_failed_once(line):
    case = ast.literal_eval(line)
    if isinstance(case, dict):
        return right_calls.check(case)
    assert (mutated_files.complaint if isinstance(case[0], int) else wrong_calls.complaint)(*case) is None
