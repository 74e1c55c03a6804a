"""Results of joint runs as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console

from kgfast.cli.console import figure, plain_table, spread
from kgfast.joint import ablate
from kgfast.joint.facts import told_by


def show_tasks(console: Console, tasks: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A table a task, with the columns and groups that the task names: a line a split, its groups under it."""
    for name, splits in tasks.items():
        if not splits:
            continue
        task = told_by(name)
        columns = task.columns_of(next(iter(splits.values())))
        made = plain_table([name, *columns.values()])
        for split, found in splits.items():
            made.add_row(split, *cells(found, columns), style="bold")
            for group, part in task.groups_of(found):
                made.add_row(f"  {group}", *cells(part, columns), style="dim")
        console.print(made)
        console.print()


def cells(metrics: Mapping[str, Any], columns: Iterable[str]) -> list[str]:
    return [figure(metrics[key]) if key in metrics else "" for key in columns]


def show_ablation(console: Console, complete: dict[str, Any]) -> None:
    """Joint against alone: mean and spread over seeds."""
    made = plain_table(["task", "metric", "together", "alone", "trained alone", "together is"], left=(0, 1))
    for place in (1, 4):  # names stay whole, where a terminal is narrow
        made.columns[place].no_wrap = True
    for task, metric, cells in ablate.rows(complete):
        joint, word = cells[0][1], told_by(task).columns.get(metric, metric)
        others: list[tuple[str, Any]] = [*cells[1:]] or [("", None)]
        for run, alone in others:
            told = "" if alone is None else ablate.better(task, metric, joint, alone)
            made.add_row(task, word, spread(joint), "" if alone is None else spread(alone), run, told)
    console.print(made)
    count = len(complete["seeds"])
    console.print(f"{count} seeds, {complete['steps'] or 'timed'} steps; better, worse: by more than the larger spread")
