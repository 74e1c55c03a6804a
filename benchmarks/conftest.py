"""Options, and the fixture that checks a case, times it against its baselines in turns, and keeps the row."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks import machine
from benchmarks.ceilings import measure as measure_ceilings
from benchmarks.inputs import COPIED, SIZES
from benchmarks.record import rows_of
from benchmarks.timing import in_turns, rounds_for

PROVIDERS = ("kgfast", "eager", "compile", "reference")


def pytest_addoption(parser):
    group = parser.getgroup("kgfast")
    group.addoption("--size", default="fb15k-237", choices=sorted(SIZES), help="graph, batch and row sizes")
    group.addoption("--threads", type=int, default=machine.cores(), help="default: all cores")
    group.addoption(
        "--providers", default="kgfast,eager,reference", help=f"of {','.join(PROVIDERS)}; the first must be kgfast"
    )
    group.addoption(
        "--seconds", type=float, default=2.0, help="about how long a case's timing may take for each provider"
    )
    group.addoption("--results", type=Path, help="file of JSON lines to append to; default results/<machine>.jsonl, "
                    "and none for --size=tiny")  # fmt: skip


def pytest_configure(config):
    providers = config.getoption("--providers").split(",")
    if providers[0] != "kgfast" or not set(providers) <= set(PROVIDERS):
        raise pytest.UsageError(f"--providers: kgfast first, then any of {', '.join(PROVIDERS[1:])}")


class Session:
    """One run: its settings, its ceilings, its file."""

    def __init__(self, config):
        option = config.getoption
        self.size_name, self.size = option("--size"), SIZES[option("--size")]
        self.providers, self.seconds = option("--providers").split(","), option("--seconds")
        torch.set_num_threads(option("--threads"))
        self.path = option("--results")
        if self.path is None and self.size_name != "tiny":
            self.path = machine.RESULTS / f"{machine.machine()}.jsonl"
        self.environment = machine.environment()
        self.console = Console(stderr=True, highlight=False)
        self.say("measuring what the machine can do")
        self.ceilings = measure_ceilings(
            tiny=self.size_name == "tiny", seconds=0.02 if self.size_name == "tiny" else 0.25
        )
        threads = torch.get_num_threads()
        if threads not in self.ceilings:
            self.ceilings.update(measure_ceilings((threads,)))
        self.rates = self.ceilings[threads]
        self.keep([{**self.environment, "kind": "ceilings", "ceilings": self.ceilings}])

    def say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True)

    def keep(self, rows: list[dict]) -> None:
        if self.path is not None:
            machine.append(rows, self.path)


@pytest.fixture(scope="session")
def session(request):
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        return Session(request.config)


@pytest.fixture
def measure(session, benchmark, request):
    """measure(case): check, then time. A check that fails is a failed test and leaves no row."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def run(case, kind: str = "case"):
        with capture.global_and_fixture_disabled():
            session.say(f"[dim]{case}: checking[/dim]")
            checked = case.smaller(COPIED // 3)  # the reference has no room for the largest tables
            work = checked.build(session.size)
            work.check()
            if checked != case:
                work = case.build(session.size)
            wanted = ["kgfast"] if kind == "scaling" else session.providers
            calls = {name: work.providers[name] for name in wanted if name in work.providers}
            if "compile" in calls:
                calls["compile"]()  # the compiler's memory is not the call's
            memory = {name: machine.peak_above(call) for name, call in calls.items()}
            once = {name: seconds_of(call) for name, call in calls.items()}
            rounds = rounds_for(once, session.seconds)
            rivals = {name: call for name, call in calls.items() if name != "kgfast"}
            before, seconds = in_turns(rivals, calls["kgfast"])
            benchmark.pedantic(calls["kgfast"], setup=before, rounds=rounds)
            seconds["kgfast"] = list(benchmark.stats.stats.data)
            rows = rows_of(case, kind, session, work, seconds, memory)
            session.keep(rows)
            benchmark.extra_info.update(rows[0])
            session.say(summary(rows))

    return run


def seconds_of(call) -> float:
    call()  # the first call compiles, allocates, and loads pages
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def summary(rows: list[dict]) -> str:
    """One line of what was found."""
    ours = rows[0]
    text = f"{ours['case']}: {1e3 * ours['seconds']:,.2f} ms, {ours['per_second']:,.0f} {ours['unit']}/s, "
    text += f"{100 * ours['fraction']:.0f} % of {ours['bound']}"
    for row in rows[1:]:
        text += f", {row['seconds'] / ours['seconds']:.1f} x {row['provider']}"
    return text
