"""Joins the parts of a run into one dated file, and writes the GPU part of docs/measured.md from the committed files.

    python -m benchmarks.gpu.report --parts FOLDER --out FOLDER     the last stage of gpu.sh
    python -m benchmarks.gpu.report --write                         docs/measured.md, between its two marks

A run on the CPU is a dry run: its file says so, and no page is made from it. Without results the page says nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "gpu", ROOT / "docs" / "measured.md"
BEGIN, END = "<!-- gpu: made by python -m benchmarks.gpu.report --write -->", "<!-- gpu: end -->"


def environment(device: str) -> dict:
    """Date, chip and versions."""
    import torch

    from benchmarks.machine import commit, installed
    from kgfast.cli.info import collect

    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": device,
        "dry_run": device == "cpu",
        "commit": commit(),
        "versions": {name: installed(name) for name in ("torch", "triton", "liger_kernel", "numpy")}
        | {"python": platform.python_version(), "cuda of torch": torch.version.cuda},
        "info": collect(),
    }
    if device == "cuda":
        chip = torch.cuda.get_device_properties(0)
        found["chip"] = {"name": chip.name, "memory": chip.total_memory, "multiprocessors": chip.multi_processor_count}
        query = "--query-gpu=driver_version,clocks.max.sm,power.limit"
        run = subprocess.run(["nvidia-smi", query, "--format=csv,noheader"], capture_output=True, text=True)
        found["chip"]["driver, clock, power"] = run.stdout.strip() or run.stderr.strip()
    return found


def join(parts: Path, device: str) -> dict:
    """All parts that are there; what a stage that was cut off had written is among them."""
    result = environment(device) | {"stages": [], "parts": {}}
    for path in sorted(parts.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        if path.stem.startswith("stage-"):
            result["stages"].append(content)
        else:
            result["parts"][path.stem] = content
    return result


def file_name(result: dict) -> str:
    chip = result.get("chip", {}).get("name", "dry-run-on-the-cpu")
    return re.sub(r"[^a-z0-9]+", "-", chip.lower()).strip("-") + f"-{result['date'][:19].replace(':', '')}.json"


def seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value >= 1e-3 else f"{1e6 * value:.3g} us"


def page(results: list[dict]) -> str:
    """Markdown of the newest result of each chip; empty where there is none."""
    newest = {}
    for result in sorted(results, key=lambda one: one["date"]):
        if not result["dry_run"]:
            newest[result["chip"]["name"]] = result
    return "\n".join(chip_page(result) for result in newest.values())


def chip_page(result: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if version)
    lines = [f"## {result['chip']['name']} ({result['date'][:10]})", "",
             f"`benchmarks/gpu.sh` at commit {result['commit']}; {versions}. Times are medians.", ""]  # fmt: skip
    if "note" in result:
        lines += [result["note"], ""]
    parts = result["parts"]
    failed = [f"{one['stage']} (status {one['status']})" for one in result["stages"] if one["status"]]
    if failed:
        lines += [f"Stages that failed: {', '.join(failed)}.", ""]
    for row in parts.get("ceilings", []):
        rates = ", ".join(f"{name} {value / 1e12:.3g} T" for name, value in row.items() if name != "kind")
        lines += [f"Ceilings in {row['kind']}: {rates}.", ""]
    for impl in dict.fromkeys(row["impl"] for row in parts.get("conformance", [])):
        rows = [row for row in parts["conformance"] if row["impl"] == impl]
        counts = (sum(row.get(name, 0) for row in rows) for name in ("passed", "failed"))
        text = rows[0].get("skipped") or "{} checks passed, {} failed".format(*counts)
        lines += [f"Conformance of `impl='{impl}'`: {text}.", ""]
    timed = [row for row in parts.get("ops", []) if "seconds" in row]
    if timed:
        lines += ["| op | by | time | of the floor | MB above inputs |", "|---|---|---|---|---|"]
        for row in timed:
            share = f"{100 * row['fraction']:.0f} % of {row['bound']}" if "fraction" in row else ""
            memory = "" if row.get("peak_bytes") is None else f"{row['peak_bytes'] / 1e6:,.0f}"
            lines.append(f"| {row['case']} | {row['provider']} | {seconds(row['seconds'])} | {share} | {memory} |")
        lines.append("")
    launched = [row for row in parts.get("launches", []) if "in_a_row" in row]
    if launched:
        lines += ["| launch by | Triton's cache | first call | a call of many |", "|---|---|---|---|"]
        lines += [
            f"| {row['way']} | {row['cache']} | {seconds(row['first_call'])} | {seconds(row['in_a_row'])} |"
            for row in launched
        ]
        lines.append("")
    for row in parts.get("training", []):
        if "failed" in row:
            continue
        text = f"{row['setting']}, `impl='{row['impl']}'` ({row['graph']}): "
        text += f"{row['triples_per_second']:,.0f} triples/s for {row['seconds']:.0f} s"
        if "evaluation_seconds" in row:
            text += f"; filtered evaluation of {row['evaluated']:,} triples, both sides, "
            text += seconds(row["evaluation_seconds"])
        if "mrr" in row:
            text += f"; test MRR {row['mrr']:.4f}"
        lines += [text + ".", ""]
    return "\n".join(lines)


def with_part(text: str, part: str) -> str:
    """The page with its GPU part replaced: added at the end the first time, taken away where there are no results."""
    kept = re.sub(rf"\n*{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "\n", text, flags=re.DOTALL).rstrip("\n") + "\n"
    return f"{kept}\n{BEGIN}\n{part.rstrip()}\n{END}\n" if part else kept


def committed() -> list[dict]:
    """Results that git knows: what is not committed is on no page."""
    run = subprocess.run(["git", "ls-files", str(RESULTS)], cwd=ROOT, capture_output=True, text=True, check=True)
    paths = [ROOT / name for name in run.stdout.split() if name.endswith(".json")]
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.parent == RESULTS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(with_part(text, page(committed())), encoding="utf-8")
        return
    result = join(options.parts, options.device)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / file_name(result)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=1, default=str), encoding="utf-8")
    temporary.replace(path)
    print(path.name)
    print(page([result]) or "a dry run: nothing was measured")


if __name__ == "__main__":
    main()
