"""`kgfast predict` and `kgfast ask`: one question, a file of them, or a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kgfast.cli.console import errors, plain_table, print_json, screen
from kgfast.errors import ConfigError, DataError, KgfastError
from kgfast.evaluate.predict import SLOTS, find_id
from kgfast.use import TrainedRun

ASKED = "?"  # in a file of queries, the part that is asked for
HELD = {"train": "in train", "valid": "held out (valid)", "test": "held out (test)"}
PREDICTED = "predicted, not in the graph"
WHAT = {
    "yes/no": "as far as the graph knows",
    "count": "as many as the graph knows",
    "question head": "the paths that the question means, and predictions",
    "link head": "the likeliest links",
    "language model": "the names that fill the blank best",
}
AT_ONCE = 256  # lines of a file that are answered together


def predict(run: TrainedRun, query: dict[str, str | None], as_json: bool, **options: Any) -> None:
    """kgfast predict"""
    (rows,) = run.predict_all([run.query(**query)], **options)
    show_prediction({**query, "answers": rows}, as_json, options["known"])


def predict_for_text(
    run: TrainedRun,
    query: dict[str, str | None],
    texts: dict[str, str | None],
    edges: str | None,
    k: int,
    as_json: bool,
) -> None:
    """kgfast predict --head-text, --relation-text: texts of what isn't in the graph."""
    side, entity = ("head", query["tail"]) if query["tail"] is not None else ("tail", query["head"])
    given = [] if edges is None else list(edges_of(edges))
    rows = run.predict_for_text(
        texts["head_text"], query["relation"], k, side, entity=entity, relation_text=texts["relation_text"], edges=given
    )
    asked = {name: value for name, value in {**query, **texts}.items() if value is not None}
    show_prediction({**asked, **({"edges": given} if given else {}), "answers": rows}, as_json, "ignore")


def edges_of(file: str) -> Iterator[list[str]]:
    """kgfast predict --edges: a triple of the new head a line, ? in its place."""
    for where, line in lines_of(file):
        parts = line.split("\t")
        if len(parts) != 3 or (parts[0] == ASKED) == (parts[2] == ASKED):
            raise DataError(f"{where}: must be head, relation and tail between tabs, head or tail {ASKED}: {line!r}")
        yield parts


def predict_file(run: TrainedRun, file: str, as_json: bool, **options: Any) -> None:
    """kgfast predict --file: a query a line, its three parts between tabs, ? for the one that is asked for."""
    asked, queries = [], []
    for where, line in lines_of(file):
        parts = line.split("\t")
        if len(parts) != 3 or parts.count(ASKED) != 1:
            raise DataError(f"{where}: must be head, relation and tail between tabs, one of them {ASKED}: {line!r}")
        given = {slot: None if part == ASKED else part for slot, part in zip(SLOTS, parts, strict=True)}
        with at_line(where):
            queries.append(run.query(**given))
        asked.append(given)
    for start in range(0, len(queries), AT_ONCE):
        found = run.predict_all(queries[start : start + AT_ONCE], **options)
        for given, rows in zip(asked[start : start + AT_ONCE], found, strict=True):
            if not as_json:
                screen().print("  ".join(given[slot] or ASKED for slot in SLOTS), style="bold", soft_wrap=True)
            show_prediction({**given, "answers": rows}, as_json, options["known"])


def show_prediction(found: dict[str, Any], as_json: bool, known: str) -> None:
    if as_json:
        return print_json(found)
    rows = found["answers"]
    labelled = any(row["label"] != row["name"] for row in rows)
    words = ["name"] + ["label"] * labelled
    table = plain_table(
        ["", *words, "score"] + ["known"] * (known == "mark"), left=(*range(1, 1 + len(words)), 2 + len(words))
    )
    for row in rows:
        marks = [HELD.get(row["split"], "")] if known == "mark" else []
        table.add_row(str(row["rank"]), *(row[word] for word in words), f"{row['score']:.4f}", *marks)
    screen().print(table if rows else "no answers remain: all are known (--known mark shows them)")


def build_index(run: TrainedRun, recall: float, as_json: bool) -> None:
    """kgfast index"""
    from kgfast.use.index import ABOUT, ROWS, write
    from kgfast.use.indexing import K, build

    index, measured = build(run.model, run.with_graph("an index"), recall, errors().print)
    folder = write(index, measured, run.folder)
    if as_json:
        return print_json({"folder": str(folder), **json.loads((folder / ABOUT).read_text(encoding="utf-8"))})
    console = screen()
    console.print(f"recall@{K} {measured['recall']:.3f} of {measured['queries']:.0f} other queries, {index.kind}")
    console.print(f"one query: exact {measured['exact_ms']:.2f} ms, by index {measured['index_ms']:.2f} ms")
    if measured["index_ms"] >= measured["exact_ms"]:
        console.print("exact answers, the default, are the faster ones here")
    size = f"{(folder / ROWS).stat().st_size / 2**20:,.0f} MiB, built in {measured['seconds']:.1f} s"
    console.print(f"{folder}: {size}", soft_wrap=True)
    if measured["recall"] < recall:
        errors().print(f"the recall is below {recall:g}: the effort was chosen on other queries, or is at its end")


def ask(run: TrainedRun, question: str, topic: str | None, k: int, always: bool, as_json: bool) -> None:
    """kgfast ask"""
    show_answers(run, [run.ask(question, topic, k, always)], as_json)


def ask_file(run: TrainedRun, file: str, k: int, always: bool, as_json: bool) -> None:
    """kgfast ask --file: a question a line, behind a tab maybe the entity that it is about."""
    run.with_questions()
    questions, topics = [], []
    for where, line in lines_of(file):
        question, _, topic = line.partition("\t")
        with at_line(where):
            topics.append(run.entities[find_id(run.graph, "topic", topic)] if topic else None)
        questions.append(question)
    for start in range(0, len(questions), AT_ONCE):
        chosen = slice(start, start + AT_ONCE)
        show_answers(run, run.ask(questions[chosen], topics[chosen], k, always), as_json, headed=True)


def converse(run: TrainedRun, topic: str | None, k: int, always: bool, as_json: bool) -> None:
    """kgfast ask without a question, on a terminal: one after the other, until an empty line or the end of input."""
    run.with_questions()
    errors().print("Ask about the graph; an empty line ends.", style="dim")
    while True:
        try:
            question = input("? ").strip()
        except EOFError:
            return print()
        if not question:
            return
        try:
            show_answers(run, [run.ask(question, topic, k, always)], as_json)
        except KgfastError as error:
            errors().print(str(error), style="red", soft_wrap=True)


def show_answers(run: TrainedRun, results: Sequence[dict[str, Any]], as_json: bool, headed: bool = False) -> None:
    """Answers to questions, each with the triples that support it."""
    console = screen()
    for found in results:
        if as_json:
            print_json(found)
            continue
        if headed:
            console.print(found["question"], style="bold", soft_wrap=True)
        show_reply(run, found)


def show_reply(run: TrainedRun, found: dict[str, Any]) -> None:
    """Who answers, what is answered, and the triples that support it."""
    console = screen()
    if found["knows"] is False and found["topic"] is None:
        return console.print("I don't know: the question names nothing of the graph.", soft_wrap=True)
    if found["knows"] is False and not found["answers"] and found["value"] is None:
        return console.print(
            f"I don't know: no answer is as likely as {run.threshold:.2f}; --always shows the likeliest.",
            soft_wrap=True,
        )
    console.print(f"{found['by']}: {WHAT[found['by']]}", style="dim", soft_wrap=True)
    if found["value"] is not None:
        console.print(f"{found['value']}   {found['probability']:.3f}", style="bold")
    for answer in found["answers"]:
        console.print(f"{answer['rank']:>2}  {answer['probability']:.3f}  {answer['label']}", style="bold")
        for step in answer["support"]:
            note = "" if step["split"] == "train" else f"   ({HELD.get(step['split'], PREDICTED)})"
            console.print(f"      {step['head']}  {step['relation']}  {step['tail']}{note}", style="dim")


def lines_of(file: str) -> Iterator[tuple[str, str]]:
    """(place, line) of a text file's lines that aren't empty; "-" is standard input."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        text = text.removeprefix("\ufeff")  # as in every other file that is read
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: {error}") from None
    for number, line in enumerate(text.split("\n"), 1):  # a name may hold what else splits lines
        if line.strip():
            yield f"{file}:{number}", line.removesuffix("\r")


@contextmanager
def at_line(where: str) -> Iterator[None]:
    """Errors inside name the line that they are about."""
    try:
        yield
    except KgfastError as error:
        raise type(error)(f"{where}: {error}") from None


def check_asked(question: str | None, file: str | None, topic: str | None) -> None:
    """ConfigError where there is both a question and a file, or neither and nobody at a terminal."""
    if file is not None and (question is not None or topic is not None):
        raise ConfigError("--file has the questions and their topics: give no question and no --topic with it")
    if question is None and file is None and not sys.stdin.isatty():
        raise ConfigError("give a question, or --file FILE with one a line (- is standard input)")


def check_predicted(
    query: dict[str, str | None], texts: dict[str, str | None], file: str | None, edges: str | None, index: bool
) -> None:
    """ConfigError for options of predict that don't go together."""
    head_text, relation_text = texts["head_text"], texts["relation_text"]
    if index and (head_text is not None or relation_text is not None):
        raise ConfigError("--index answers queries of names: it doesn't go together with --head-text, --relation-text")
    given = any(value is not None for value in (*query.values(), *texts.values(), edges))
    if file is not None and given:
        raise ConfigError("--file has the queries: give none of --head, --head-text, --relation, --tail, .. with it")
    others = query["head"] is not None or query["tail"] is not None
    if head_text is not None and (others or (query["relation"] is None) == (relation_text is None)):
        raise ConfigError("--head-text needs --relation or --relation-text, and neither --head nor --tail")
    if edges is not None and head_text is None:
        raise ConfigError("--edges are triples of a new head: they need --head-text")
    if relation_text is not None and head_text is None:
        if query["relation"] is not None or (query["head"] is None) == (query["tail"] is None):
            raise ConfigError("--relation-text needs one of --head, --tail and --head-text, and no --relation")
