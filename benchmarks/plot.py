"""Figures and tables of what was measured: `python -m benchmarks.plot` reads benchmarks/results/*.jsonl and writes
docs/benchmarks.md and docs/img/bench-*.svg. Of each case the latest row counts; nothing is measured here.
"""

from __future__ import annotations

import argparse
import os
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

from benchmarks import machine  # noqa: E402
from benchmarks.cases.growth import GROWTH  # noqa: E402

matplotlib.rcParams.update({"svg.hashsalt": "kgfast", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False, "legend.frameon": False})  # fmt: skip
COLOURS = {"kgfast": "#1b6ca8", "eager": "#e08214", "torch": "#e08214", "compile": "#b35806", "reference": "#999999",
           "pykeen": "#4d9221", "pyg": "#c51b7d", "torchkge": "#762a83"}  # fmt: skip


def latest(rows: list[dict], *keys: str) -> list[dict]:
    """The last row of each combination of keys, in the order of their first appearance."""
    found: dict = {}
    for row in rows:
        found[tuple(str(row.get(key)) for key in keys)] = row
    return list(found.values())


def write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def save(figure, path: Path) -> None:
    temporary = path.with_name(path.name + ".part")
    figure.savefig(temporary, format="svg", bbox_inches="tight", metadata={"Date": None})
    plt.close(figure)
    os.replace(temporary, path)


def bars(groups: dict[str, dict[str, float]], label: str, log: bool = False):
    """Horizontal bars: group -> {series: value}."""
    series = [name for name in COLOURS if any(name in values for values in groups.values())]
    height = 0.8 / len(series)
    figure, axes = plt.subplots(figsize=(7, 1 + 0.16 * len(groups) * max(2, len(series))))
    for place, name in enumerate(series):
        points = [(y, values[name]) for y, values in enumerate(groups.values()) if name in values]
        positions = [y + place * height for y, _ in points]
        axes.barh(positions, [value for _, value in points], height, color=COLOURS[name], label=name)
    axes.set_yticks([y + 0.4 - height / 2 for y in range(len(groups))], list(groups))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    if log:
        axes.set_xscale("log")
    if len(series) > 1:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(series))
    return figure


def times_figure(rows: list[dict], folder: Path) -> None:
    groups: dict = defaultdict(dict)
    for row in rows:
        groups[row["case"]][row["provider"]] = 1e3 * row["seconds"]
    save(bars(groups, "milliseconds, median (shorter is better)", log=True), folder / "bench-ops.svg")


def ceiling_figure(rows: list[dict], folder: Path) -> None:
    groups = {row["case"]: {"kgfast": 100 * row["fraction"]} for row in rows if row["provider"] == "kgfast"}
    figure = bars(groups, "% of the ceiling that the run measured (arithmetic or memory, whichever binds)")
    figure.axes[0].axvline(100, color="black", linewidth=0.8, linestyle="--")
    save(figure, folder / "bench-ceiling.svg")


def scaling_figure(rows: list[dict], folder: Path) -> None:
    names = {"negatives": "negatives N", "dim": "reals D", "batch": "triples B", "entities": "entities C"}
    figure, panels = plt.subplots(1, len(GROWTH), figsize=(11, 3), sharey=True)
    for axes, axis in zip(panels, GROWTH, strict=True):
        lines: dict = defaultdict(list)
        for row in rows:
            base, _, change = row["case"].rpartition("/")
            name, _, value = change.partition("=")
            if name == axis and row["provider"] == "kgfast":
                lines[base].append((int(value), 1e3 * row["seconds"]))
        for place, (base, points) in enumerate(sorted(lines.items())):
            axes.plot(*zip(*sorted(points), strict=True), "o-", markersize=3, label=base, color=f"C{place}")
        axes.set(xscale="log", yscale="log", xlabel=names[axis])
    panels[0].set_ylabel("milliseconds")
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    save(figure, folder / "bench-scaling.svg")


def peers_figure(rows: list[dict], folder: Path) -> None:
    groups: dict = defaultdict(dict)
    for row in rows:
        groups[f"{row['work']} {row['score']}"][row["peer"]] = row["per_second"]
    save(bars(groups, "triples (or queries) a second, median (longer is better)", log=True), folder / "bench-peers.svg")


def megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:,.0f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(lines) + "\n"


def about(rows: list[dict]) -> str:
    row = rows[-1]
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    versions = ", ".join(f"{name} {version}" for name, version in sorted(row["versions"].items()))
    return (f"Machine {row['machine']}, {row['threads']} threads, CPU level {row['cpu_level']}, {versions}; "
            f"{rows[0]['date'][:10]} to {row['date'][:10]}, commit {commits}.\n")  # fmt: skip


def case_table(rows: list[dict]) -> str:
    by_case: dict = defaultdict(dict)
    for row in rows:
        by_case[row["case"]][row["provider"]] = row
    others = [name for name in ("eager", "compile", "reference") if any(name in found for found in by_case.values())]
    head = ["case", "ms (least to most)", "a second", "bound", "% of it", "MB above inputs"]
    head += [f"{name}: ms, MB" for name in others]
    lines = []
    for case, found in by_case.items():
        if "kgfast" not in found:
            continue
        ours = found["kgfast"]
        spread = f"{1e3 * ours['seconds']:.2f} ({1e3 * ours['seconds_min']:.2f} to {1e3 * ours['seconds_max']:.2f})"
        line = [case, spread, f"{ours['per_second']:,.0f} {ours['unit']}", ours["bound"]]
        line += [f"{100 * ours['fraction']:.0f}", megabytes(ours["peak_memory_bytes"])]
        for name in others:
            row = found.get(name)
            line.append("" if row is None else f"{1e3 * row['seconds']:.2f}, {megabytes(row['peak_memory_bytes'])}")
        lines.append(line)
    return table(head, lines)


def ceilings_table(found: dict) -> str:
    probes = list(next(iter(found.values())))
    unit = lambda probe: "GB/s" if probe in ("stream", "random") or probe.startswith("rows") else "GFLOP/s"  # noqa: E731
    lines = [[f"{probe} ({unit(probe)})", *(f"{rates[probe]:,.1f}" for rates in found.values())] for probe in probes]
    return table(["probe", *(f"threads: {count}" for count in found)], lines)


def peers_table(rows: list[dict]) -> str:
    """A line for each peer, with kgfast's figure of the same interleaved windows."""
    ours = {(row["work"], row["score"], row["against"]): row for row in rows if row["peer"] == "kgfast"}
    lines = []
    for row in rows:
        pair = ours.get((row["work"], row["score"], row["against"]))
        if row["peer"] == "kgfast" or pair is None:
            continue
        spread = [
            f"{one['per_second']:,.0f} ({one['per_second_min']:,.0f} to {one['per_second_max']:,.0f}) {one['unit']}"
            for one in (row, pair)
        ]
        ratio = "" if row["unit"] != pair["unit"] else f"{pair['per_second'] / row['per_second']:.1f}"
        memory = f"{megabytes(row['peak_memory_bytes'])} / {megabytes(pair['peak_memory_bytes'])}"
        peer = f"{row['peer']} {row['version']}"
        lines.append([row["work"], row["score"], peer, *spread, ratio, memory])
    return table(["work", "score", "peer", "peer, a second", "kgfast, a second", "times", "MB (peer / kgfast)"], lines)


INTRODUCTION = """# Benchmarks

Generated by `python -m benchmarks.plot` from `benchmarks/results/`; every figure was measured by `make bench` or
`python -m benchmarks.peers`. Each row was held to the eager specification in float64 before it was timed; times
are medians of runs taken in turns. The ceiling is what the same run measured: the best fp32 matrix product, reading one
long array, or random rows of a table larger than the caches. Tables that fit into a cache can be read faster than that:
above 100 % of "memory" is no error. An operation counts two for each vector instruction, as a multiply-add does two.
"""


def page(name: str, rows: list[dict], images: Path) -> str:
    """The part of the page for one machine; draws its figures into `images`."""
    images.mkdir(parents=True, exist_ok=True)
    kinds: dict = defaultdict(list)
    for row in rows:
        kinds[row["kind"]].append(row)
    text = f"\n## {name}\n\n{about(rows)}"
    prefix = os.path.relpath(images, images.parents[1])
    if kinds["ceilings"]:
        text += f"\n### What the machine can do\n\n{ceilings_table(kinds['ceilings'][-1]['ceilings'])}"
    cases = latest(kinds["case"] + kinds["large"], "case", "provider", "size")
    if cases:
        times_figure(cases, images)
        ceiling_figure(cases, images)
        text += f"\n### Ops\n\n![Time of every op]({prefix}/bench-ops.svg)\n\n"
        text += f"![Share of the ceiling]({prefix}/bench-ceiling.svg)\n\n{case_table(cases)}"
    growth = latest(kinds["scaling"], "case", "provider")
    if growth:
        scaling_figure(growth, images)
        text += f"\n### How cost grows\n\n![Cost]({prefix}/bench-scaling.svg)\n\n{case_table(growth)}"
    peers = latest(kinds["peer"], "work", "score", "peer", "against", "data")
    if peers:
        peers_figure(peers, images)
        sizes = ", ".join(f"{key} {value}" for key, value in sorted(peers[-1]["sizes"].items()))
        text += f"\n### Other libraries\n\nData: {peers[-1]['data']}; {sizes}; malloc tuned for all.\n\n"
        text += f"![Other libraries]({prefix}/bench-peers.svg)\n\n{peers_table(peers)}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, help="default: benchmarks/results/*.jsonl")
    parser.add_argument("--out", type=Path, default=machine.ROOT / "docs", help="folder of benchmarks.md and img/")
    options = parser.parse_args()
    files = options.results or sorted(machine.RESULTS.glob("*.jsonl"))
    if not files:
        raise SystemExit("no results yet: run make bench or python -m benchmarks.peers first")
    machines: dict = defaultdict(list)
    for file in files:
        for row in machine.read(file):
            machines[row["machine"]].append(row)
    text = INTRODUCTION
    for name, rows in sorted(machines.items()):
        folder = options.out / "img" / name
        text += page(name, rows, folder)
    write(options.out / "benchmarks.md", text)
    print(f"wrote {options.out / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
