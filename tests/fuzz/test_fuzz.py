"""A minute of fuzzing, the same in each run; `make fuzz` is longer."""

import ast
import warnings
from pathlib import Path

import mutated_files
import pytest
import right_calls
import wrong_calls
from hypothesis import HealthCheck, given, settings

FOUND = Path(__file__).with_name("found.txt")  # cases that failed once


@pytest.mark.parametrize("name", wrong_calls.FUNCTIONS)
def test_a_wrong_argument_is_named(name):
    """Every argument, every value that is wrong for it."""
    if name not in wrong_calls.MAY_BE_WRONG_AS_A_WHOLE:
        wrong_calls.right_call(name)
    impls = ("cpu", "reference") if wrong_calls.FUNCTIONS[name].impls and name not in wrong_calls.STEPS else (None,)
    places = [(argument, word) for one, argument, word in wrong_calls.all_wrong() if one == name]
    found = {
        (argument, word, impl): said
        for number, (argument, word) in enumerate(places)
        if (said := wrong_calls.complaint(name, {argument: word}, impl := impls[number % len(impls)]))
    }
    assert places and not found, found


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(case=right_calls.cases())
def test_numbers_are_those_of_the_specification(case):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        right_calls.check(case)


def test_a_changed_file_is_read_or_refused():
    found = {number: said for number in range(300) if (said := mutated_files.complaint(number, seed=1))}
    assert not found, found


@pytest.mark.parametrize("line", FOUND.read_text(encoding="utf-8").splitlines())
def test_what_failed_once(line):
    case = ast.literal_eval(line)
    if isinstance(case, dict):
        return right_calls.check(case)
    assert (mutated_files.complaint if isinstance(case[0], int) else wrong_calls.complaint)(*case) is None
