"""The commands of `kgfast` on many runs; `kgfast.cli.main` has their options."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from kgfast.cli.console import errors, figure, plain_table, print_json, screen, spread
from kgfast.errors import ConfigError
from kgfast.research.compare import best, heading, order, shown
from kgfast.research.compare import compare as compare_runs
from kgfast.research.page import seeds, write_comparison

SHOWN_TRIALS = 10
STATES = {"COMPLETE": "finished", "PRUNED": "ended early", "FAIL": "failed", "RUNNING": "stopped", "WAITING": "waiting"}


def compare(folders, metrics, page, as_json):
    """kgfast compare"""
    found = compare_runs(folders, metrics)
    if page is not None:
        write_comparison(page, found)
    if as_json:
        return print_json(found.as_dict() | {"page": None if page is None else str(page)})
    for run in found.unfinished:
        errors().print(f"{run.path} isn't finished: left out", soft_wrap=True)
    console = screen()
    show_results(console, found)
    if found.settings and not found.beside:
        show_settings(console, found)
    if any(len(row.runs) > 1 for row in found.rows):
        console.print("mean ± sample standard deviation over seeds; bold: the best mean", style="dim")
    if page is not None:
        console.print(f"{page}", soft_wrap=True)


def show_results(console, found):
    """A row for each combination of settings, the best first."""
    names = ["run", *found.beside, "seeds"]
    table = plain_table([*names, *map(heading, found.metrics)], left=range(len(names)))
    winners = {name: best(found.rows, name) for name in found.metrics}
    for row in found.rows:
        numbers = [emphasised(spread(row.metrics[name]), winners[name] is row) for name in found.metrics]
        table.add_row(row.runs[0].path.name, *(shown(row.settings[key]) for key in found.beside), seeds(row), *numbers)
    console.print(table)


def show_settings(console, found):
    """The settings that differ, where they are too many to stand beside the results: a column for each row."""
    table = plain_table(["setting", *(row.runs[0].path.name for row in found.rows)], left=range(1 + len(found.rows)))
    for key in found.settings:
        table.add_row(key, *(shown(row.settings[key]) for row in found.rows))
    console.print()
    console.print(table)


def emphasised(text, winner):
    from rich.text import Text

    return Text(text, style="bold" if winner else "")


def sweep(file, pairs, trials, processes, out, as_json):
    """kgfast sweep"""
    from kgfast.research import sweep as sweeping
    from kgfast.research.plan import Plan

    if file is None:
        raise ConfigError("a YAML file is missing: settings, and `search:` with those that are searched")
    plan = Plan.read(file, pairs, {"trials": trials})
    with Trials(plan) as told:
        study, folder = sweeping.sweep(plan, out, processes=processes, told=told)
    best = sweeping.best_trial(study)
    found = [of_trial(trial, folder) for trial in study.get_trials(deepcopy=False)]
    written = str(folder / sweeping.BEST) if best is not None else None
    if as_json:
        chosen = None if best is None else best.number
        return print_json(
            {"out": str(folder), "metric": plan.metric, "trials": found, "best": chosen, "best_settings": written}
        )
    console = screen()
    show_trials(console, plan, study, best)
    console.print("no trial is finished" if written is None else f"kgfast train {written}", soft_wrap=True)


def of_trial(trial, folder):
    """A trial as JSON has it."""
    from kgfast.research.sweep import trial_folder

    return {
        "number": trial.number, "state": STATES[trial.state.name], "value": trial.value, "settings": trial.params,
        "run": str(trial_folder(folder, trial.number)), "reason": trial.user_attrs.get("reason"),
    }  # fmt: skip


def show_trials(console, plan, study, best):
    """The best trials, and how many of the others were ended early."""
    trials = study.get_trials(deepcopy=False)
    finished = [trial for trial in trials if trial.state.name == "COMPLETE"]
    finished.sort(key=lambda trial: (order(plan.metric, trial.value), trial.number))
    table = plain_table(["trial", *plan.search, heading(plan.metric)], left=range(1 + len(plan.search)))
    for trial in finished[:SHOWN_TRIALS]:
        values = [shown(trial.params[key]) for key in plan.search]
        table.add_row(str(trial.number), *values, figure(trial.value), style="bold" if trial is best else "")
    if finished:
        console.print(table)
    if len(finished) > SHOWN_TRIALS:
        console.print(f"and {len(finished) - SHOWN_TRIALS} more: --json has all", style="dim")
    console.print(counted(trials), style="dim")
    for reason in dict.fromkeys(t.user_attrs["reason"] for t in trials if t.state.name == "FAIL"):
        errors().print(f"failed: {reason}", soft_wrap=True)


def counted(trials):
    """How many trials are in which state, in words."""
    states = [STATES[trial.state.name] for trial in trials]
    return ", ".join(f"{states.count(word)} {word}" for word in STATES.values() if word in states)


class Trials:
    """What people see of a sweep as it goes: a bar on a terminal, and a line for each trial that ends."""

    def __init__(self, plan):
        self.plan, self.console, self.seen = plan, errors(), None
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self.bar = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self.task = self.bar.add_task("trials", total=plan.sweep.trials, text="")

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *exception):
        self.bar.stop()

    def __call__(self, study):
        from kgfast.research.sweep import best_trial

        ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
        best = best_trial(study)
        if self.seen is None:  # of an earlier call
            self.seen = {trial.number for trial in ended}
            if ended:
                self.console.print(f"going on after {len(ended)} trials")
        for trial in ended:
            if trial.number not in self.seen:
                self.seen.add(trial.number)
                settings = "  ".join(f"{key}={shown(value)}" for key, value in trial.params.items())
                told = figure(trial.value) if trial.state.name == "COMPLETE" else STATES[trial.state.name]
                told += "  best so far" if best is not None and trial.number == best.number else ""
                self.console.print(f"trial {trial.number}  {settings}  {told}", soft_wrap=True)
        text = "" if best is None else f"best {figure(best.value)}"
        self.bar.update(self.task, completed=len(ended), text=text)
