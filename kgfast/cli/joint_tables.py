"""Results of joint runs as tables for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from kgfast.joint import ablate

COUNTS = ("triples", "tokens", "questions", "pairs", "queries")


def figure(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"


def plain(headings: list[str], words: int = 1) -> Table:
    made = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 3, 0, 0))
    for column, heading in enumerate(headings):
        made.add_column(heading, justify="left" if column < words else "right", overflow="fold")
    return made


def show_tasks(console: Console, tasks: dict[str, dict[str, dict[str, Any]]]) -> None:
    """A table for link prediction, one for language, one for questions, one for what else there is."""
    ranked = {name: splits for name, splits in tasks.items() if name in ("link", "relation", "contrast")}
    for name, splits in ranked.items():
        keys = ["mrr", "hits@1", "hits@3", "hits@10", "mean_rank"]
        made = plain([f"{name}", "MRR", "Hits@1", "Hits@3", "Hits@10", "mean rank"])
        for split, found in splits.items():
            made.add_row(split, *(figure(found.get(key)) for key in keys), style="bold")
            for side in ("tail", "head"):
                if side in found:
                    made.add_row(f"  {side}", *(figure(found[side].get(key)) for key in keys), style="dim")
            groups = found.get("entities", {})
            if "unseen" in groups:
                for group in ("seen", "unseen"):
                    if group in groups:
                        values = (figure(groups[group].get(key)) if key in groups[group] else "" for key in keys)
                        made.add_row(f"  {group} entities", *values, style="dim")
        console.print(made)
        console.print()
    language = [(name, splits) for name, splits in tasks.items() if name in ("mlm", "clm", "nsp")]
    if language:
        made = plain(["language", "split", "perplexity", "loss", "accuracy"], words=2)
        for name, splits in language:
            for split, found in splits.items():
                made.add_row(name, split, *(figure(found[key]) if key in found else "" for key in
                                            ("perplexity", "loss", "accuracy")))  # fmt: skip
        console.print(made)
        console.print()
    if "qa" in tasks:
        made = plain(["questions", "", "questions", "Hits@1", "F1"], words=2)
        for split, found in tasks["qa"].items():
            made.add_row(split, "all", *(figure(found[key]) for key in ("questions", "hits@1", "f1")), style="bold")
            for hops, part in found.get("hops", {}).items():
                word = f"{hops} hop{'s' * (hops != '1')}" if hops != "beyond" else "further"
                made.add_row("", word, *(figure(part[key]) for key in ("questions", "hits@1", "f1")), style="dim")
            for head, part in found.get("heads", {}).items():
                made.add_row("", head, "", figure(part["hits@1"]), figure(part["f1"]), style="dim")
        console.print(made)
        console.print()


def show_answers(console: Console, found: dict[str, Any]) -> None:
    """Answers to a question, each with the triples that support it."""
    for answer in found["answers"]:
        console.print(f"{answer['rank']:>2}  {answer['probability']:.3f}  {answer['label']}", style="bold")
        for step in answer["support"]:
            note = "" if step["known"] else "   (predicted, not in the graph)"
            console.print(f"      {step['head']}  {step['relation']}  {step['tail']}{note}", style="dim")


def show_ablation(console: Console, complete: dict[str, Any]) -> None:
    """Joint against alone: mean and spread over seeds."""
    made = plain(["task", "metric", "together", "alone", "trained alone", "together is"], words=2)
    for task, metric, cells in ablate.rows(complete):
        joint = cells[0][1]
        for run, alone in cells[1:] or [("", None)]:
            told = "" if alone is None else ablate.better(metric, joint, alone)
            made.add_row(task, metric, spread(joint), "" if alone is None else spread(alone), run, told)
    console.print(made)
    count = len(complete["seeds"])
    console.print(f"{count} seeds, {complete['steps'] or 'timed'} steps; better, worse: by more than the larger spread")


def spread(value: dict[str, Any]) -> str:
    return figure(value["mean"]) + ("" if value["spread"] is None else f" ± {figure(value['spread'])}")
