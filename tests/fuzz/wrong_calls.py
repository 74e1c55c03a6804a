"""Calls of the public functions with arguments that are wrong: each must end in a KgfastError that names one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wrong_arguments import IMPL, Argument
from wrong_functions import FUNCTIONS

import kgfast


def arguments_of(name: str) -> dict[str, Argument]:
    function = FUNCTIONS[name]
    return {**function.arguments, "impl": IMPL} if function.impls else dict(function.arguments)


def right_call(name: str, impl: str | None = None) -> Any:
    """The call whose arguments are all right."""
    given = {argument: about.right() for argument, about in FUNCTIONS[name].arguments.items()}
    return FUNCTIONS[name].call(**given, **({"impl": impl} if FUNCTIONS[name].impls else {}))


def complaint(name: str, places: Mapping[str, str], impl: str | None = None) -> str | None:
    """What is not right about the end of a call in which the arguments at `places` have the wrong values of these
    words; None where a KgfastError names one of them."""
    arguments = arguments_of(name)
    given = {argument: about.right() for argument, about in arguments.items()}
    if "impl" in given:
        given["impl"] = impl
    given |= {argument: arguments[argument].wrong[word]() for argument, word in places.items()}
    try:
        found = FUNCTIONS[name].call(**given)
    except kgfast.KgfastError as error:
        said, names = str(error), [one for argument in places for one in (argument, *arguments[argument].names)]
        if any(re.search(rf"\b{re.escape(one)}\b", said) for one in names):
            return None
        return f"a {type(error).__name__} that names none of {', '.join(names)}: {said[:300]}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]} ({place_of(error)})"
    if len(places) > 1 and all(word.endswith("_alone") for word in places.values()):
        return None  # together they may be right, as two tables of float64
    return f"no error, but {type(found).__name__}: {str(found)[:100]}"


def place_of(error: BaseException) -> str:
    """The last line of kgfast that an error came through."""
    lines = [one for one in inspect.getinnerframes(error.__traceback__) if "/kgfast/" in one.filename]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "not in kgfast"
