"""`kgfast sweep`: the best settings of a search space, by Optuna. Every trial is a run of its own.

OUT/sweep.yaml      what was searched
OUT/journal.log     the trials, Optuna's journal: a sweep that was stopped goes on from here
OUT/trial-0007/     a run
OUT/best.yaml       the best settings, for `kgfast train`
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from kgfast.core.machine import cores
from kgfast.core.optional import needs
from kgfast.core.terminal import Screen
from kgfast.data import KnowledgeGraph
from kgfast.errors import CheckpointError, ConfigError, KgfastError
from kgfast.joint import build
from kgfast.joint.config import JointConfig
from kgfast.joint.loop import train_joint
from kgfast.research.compare import lower_is_better
from kgfast.research.plan import Plan, Range
from kgfast.run.folder import locked, made_folder, new_folder
from kgfast.run.reading import flat, read_yaml, write_yaml
from kgfast.run.session import TrainingError, stop_signals
from kgfast.run.trackers import Tracker
from kgfast.train import TrainConfig, train

JOURNAL, PLAN, BEST = "journal.log", "sweep.yaml", "best.yaml"
POLL = 0.5  # seconds between two looks at trials of other processes
STOP = "stop"  # a job: there are no more
FIRST_RANDOM = 5  # trials before any is pruned

Told = Callable[[Any], None]  # is called with the study, now and then


def sweep(
    plan: Plan, out: str | None = None, *, processes: int = 1, told: Told = lambda study: None
) -> tuple[Any, Path]:
    """Run the trials that are left; Optuna's study and the folder. `told(study)` is called as trials end.

    `out`: the folder of the sweep, by default a new one under runs/. Where it holds one, that goes on: finished trials
    count, and one that was stopped resumes its run. With one process the trials are a function of the plan, whether
    it was stopped or not. KgfastError where optuna is missing, the folder is of another sweep, or a process died.
    """
    needs("optuna", "kgfast sweep", "sweep")
    if processes < 1:
        raise ConfigError(f"processes={processes}: must be at least 1")
    graph = load_graph(plan)
    folder = made_folder(out) if out is not None else new_folder(f"{Path(graph.name).name}-sweep")
    with locked(folder):
        keep_plan(folder, plan)
        study = open_study(plan, folder, graph.fingerprint)
        trials = study.get_trials(deepcopy=False)
        jobs: list[int | None] = [trial._trial_id for trial in trials if trial.state.name == "RUNNING"]
        jobs += [None] * (plan.sweep.trials - len(trials))
        told(study)
        if processes == 1 or len(jobs) < 2:
            work_off(plan, folder, study, graph, jobs, 0, told)
        elif jobs:
            in_processes(plan, folder, study, jobs, min(processes, len(jobs)), told)
        write_best(plan, folder, study)
    return study, folder


def load_graph(plan: Plan) -> KnowledgeGraph:
    """The graph of all trials; ConfigError where it has nothing to choose settings by."""
    config = plan.config(next(plan.probes()))
    graph = build.load_graph(config) if isinstance(config, JointConfig) else config.load_graph()
    if isinstance(config, TrainConfig) and not len(graph.valid):
        raise ConfigError(f"graph {graph.name!r} has no valid triples to choose settings by")
    return graph


def keep_plan(folder: Path, plan: Plan) -> None:
    """Write what is searched beside the trials; ConfigError where the folder has another sweep."""
    path, now = folder / PLAN, json.loads(json.dumps(plan.as_dict()))
    if os.path.lexists(path):
        before, after = (dict(flat(values)) for values in (read_yaml(path, of_run=True), now))
        for key in dict.fromkeys([*before, *after]):
            if key != "sweep.trials" and before.get(key) != after.get(key):
                raise ConfigError(f"{folder} holds another sweep: {key} is {before.get(key)!r} there, not "
                                  f"{after.get(key)!r}")  # fmt: skip
    write_yaml(path, now)


def open_study(plan: Plan, folder: Path, fingerprint: str) -> Any:
    """The study in the folder; CheckpointError where its trials are of other data."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners: dict[str, Callable[[], Any]] = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=FIRST_RANDOM),
        "halving": optuna.pruners.SuccessiveHalvingPruner,
        "none": optuna.pruners.NopPruner,
    }
    study = optuna.create_study(
        storage=optuna.storages.JournalStorage(JournalFileBackend(str(folder / JOURNAL))), study_name="sweep",
        direction="minimize" if lower_is_better(plan.metric) else "maximize", load_if_exists=True,
        pruner=pruners[plan.sweep.pruner](),
    )  # fmt: skip
    before = study.user_attrs.get("data_sha256")
    if before not in (None, fingerprint):
        raise CheckpointError(f"{folder}: its trials are of other data: names or triples differ")
    if before is None:
        study.set_user_attr("data_sha256", fingerprint)
    return study


def work_off(
    plan: Plan, folder: Path, study: Any, graph: KnowledgeGraph, jobs: Iterable[int | None], worker: int, told: Told
) -> None:
    """Run the trials: an id is one that was stopped and goes on, None a new one."""
    import optuna

    for job in jobs:
        number = len(study.get_trials(deepcopy=False)) if job is None else study._storage.get_trial(job).number
        study.sampler = sampler_of(plan, number, worker)
        trial = optuna.trial.Trial(study, job) if job is not None else study.ask()
        run_trial(plan, folder, study, graph, trial)
        told(study)


def sampler_of(plan: Plan, number: int, worker: int) -> Any:
    """A fresh sampler for each trial, so that it does not matter how many came before it in this process."""
    import optuna

    digest = hashlib.sha256(f"{plan.sweep.seed}/{number}/{worker}".encode()).digest()
    kind = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[plan.sweep.sampler]
    return kind(seed=int.from_bytes(digest[:4], "little"))


def run_trial(plan: Plan, folder: Path, study: Any, graph: KnowledgeGraph, trial: Any) -> None:
    """Choose settings, train, and tell the study how it went. What a run of these settings can't do is told too."""
    import optuna

    out = trial_folder(folder, trial.number)
    chosen = {key: suggest(trial, key, given) for key, given in plan.search.items()}
    watcher, console = Pruning(trial, plan), Screen(stderr=True, quiet=True)
    try:
        config = plan.config(chosen, out=str(out))
        if isinstance(config, JointConfig):
            metrics = train_joint(config, resume=out.exists(), console=console, graph=graph, trackers=[watcher])
        else:
            run = cast(TrainConfig, config)
            metrics = train(run, resume=out.exists(), console=console, graph=graph, trackers=[watcher])
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except TrainingError as error:  # it diverged, which says something about its settings
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except ConfigError as error:  # settings that are right one by one and wrong together
        trial.set_user_attr("reason", str(error))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        found = dict(flat(metrics))
        if found.get(plan.metric) is None:
            raise ConfigError(f"sweep.metric={plan.metric!r}: the runs have no such result; see {out / 'metrics.json'}")
        study.tell(trial, found[plan.metric])


def trial_folder(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:04}"


def suggest(trial: Any, key: str, given: Range | list[Any]) -> Any:
    """A value of the setting."""
    if not isinstance(given, Range):
        return trial.suggest_categorical(key, given)
    if given.whole:
        return trial.suggest_int(key, given.low, given.high, step=int(given.step or 1), log=given.log)
    return trial.suggest_float(key, given.low, given.high, step=given.step, log=given.log)


class Pruning(Tracker):
    """Reports each validation to the trial, which may end it."""

    def __init__(self, trial: Any, plan: Plan) -> None:
        *path, last = plan.metric.split(".")
        task = path[1:2] or (["link"] if plan.kind is JointConfig else [])
        self.name = "/".join(["valid", *task, last.replace("@", "_at_")])
        self.trial, self.by_epoch = trial, plan.kind is TrainConfig  # where validations of all trials meet
        self.last = max(trial.study._storage.get_trial(trial._trial_id).intermediate_values, default=-1)

    def log(self, numbers: Any, step: int, epoch: float) -> None:
        import optuna

        place = round(epoch) if self.by_epoch else step
        if self.name not in numbers or place <= self.last:
            return
        self.last = place
        self.trial.report(numbers[self.name], place)
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def close(self, ended: str) -> None:
        """The study is told by whoever runs the trial."""


def in_processes(plan: Plan, folder: Path, study: Any, jobs: list[int | None], processes: int, told: Told) -> None:
    """The same by several processes, which share the cores; a signal stops them all in good order."""
    context = multiprocessing.get_context("spawn")  # threads of kernels don't live through a fork
    queue: Any = context.SimpleQueue()
    for job in [*jobs, *[STOP] * processes]:
        queue.put(job)
    if plan.values.get("threads") is None:
        plan = replace(plan, values={**plan.values, "threads": max(1, cores() // processes)})
    workers = [
        context.Process(target=worker, args=(plan, folder, queue, place), daemon=True) for place in range(processes)
    ]
    with stop_signals() as received:
        for process in workers:
            process.start()
        while any(process.is_alive() for process in workers):
            for process in workers:
                process.join(POLL / processes)
            if received:
                for process in workers:
                    process.terminate()
                for process in workers:
                    process.join()
            told(study)
    if received and received[0] == signal.SIGINT:
        raise KeyboardInterrupt(f"stopped; {folder} holds the sweep, go on with the same command and --out {folder}")
    if received:
        raise SystemExit(128 + received[0])
    codes = [process.exitcode for process in workers if process.exitcode]
    if codes:
        raise KgfastError(f"a process of the sweep ended with code {codes[0]}: go on with --out {folder}")


def worker(plan: Plan, folder: Path, queue: Any, place: int) -> None:
    """A process of a sweep."""
    os.setsid()  # Ctrl-C reaches the first process alone, which passes it on
    try:
        graph = load_graph(plan)
        study = open_study(plan, folder, graph.fingerprint)
        work_off(plan, folder, study, graph, iter(queue.get, STOP), place, lambda study: None)
    except KgfastError as error:
        Screen(stderr=True).print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(2)


def best_trial(study: Any) -> Any | None:
    """The finished trial with the best value, the first of several; None where none is finished."""
    finished = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    return min(finished, key=lambda trial: (sign * trial.value, trial.number)) if finished else None


def write_best(plan: Plan, folder: Path, study: Any) -> Path | None:
    """OUT/best.yaml, where a trial is finished."""
    best = best_trial(study)
    if best is None:
        return None
    plan.config(best.params).save(folder / BEST)
    return folder / BEST
