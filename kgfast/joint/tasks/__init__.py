"""The tasks there are: the file `tasks/NAME.py` holds the task called NAME; packages and programs add theirs.

A package names the module of its task in an entry point of the group "kgfast.tasks"; a program imports it.
"""

from __future__ import annotations

import importlib
import pkgutil
from importlib.metadata import entry_points

from kgfast.errors import ConfigError
from kgfast.functional.multitask import LossTerm, Term
from kgfast.joint.model.packed import Encoded, Packed
from kgfast.joint.task import ModelDims, Schedule, Task, TaskOptions
from kgfast.run.seeds import generator

__all__ = ["Encoded", "LossTerm", "ModelDims", "Packed", "Schedule", "Task", "TaskOptions", "Term", "generator",
           "register", "task_class", "task_names"]  # fmt: skip

GROUP = "kgfast.tasks"
RESERVED = ("facts", "edges")  # what is measured beside tasks
TASKS: dict[str, type[Task]] = {}


def register(cls: type[Task]) -> type[Task]:
    """Class decorator: the task can be named in a config from now on. ConfigError where another class has its name."""
    if cls.name in RESERVED:
        raise ConfigError(f"{path_of(cls)} can't be called {cls.name!r}: metrics have results of their own there")
    known = TASKS.get(cls.name, cls)
    if path_of(known) != path_of(cls):
        raise ConfigError(f"task {cls.name!r} is {path_of(known)} already; {path_of(cls)} needs a name of its own")
    TASKS[cls.name] = cls
    return cls


def path_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def own_names() -> set[str]:
    return {module.name for module in pkgutil.iter_modules(__path__)}


def task_names() -> list[str]:
    """Every task there is: one a file of this folder, those of installed packages, and those registered so far."""
    return sorted({*TASKS, *own_names(), *entry_points(group=GROUP).names})


def task_class(name: str) -> type[Task]:
    """The class of a task by name; ConfigError with the names there are."""
    if name not in TASKS:
        if name in own_names():
            importlib.import_module(f"{__name__}.{name}")
        else:
            for found in entry_points(group=GROUP, name=name):
                found.load()
        if name not in TASKS:
            raise ConfigError(f"no task {name!r}; there are {', '.join(task_names())}")
    return TASKS[name]
