"""The command line: results on standard output, progress and errors on standard error; torch comes late."""

import faulthandler
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kgfast.cli import many_runs
from kgfast.cli.console import errors, plain_table, print_json, print_line, progress_bar, screen
from kgfast.cli.data import data
from kgfast.cli.interrupt import Commands
from kgfast.cli.options import Data, Device, Index, Json, Run, SettingsCommand, Threads, numbers, setting, words
from kgfast.cli.own_files import run_file
from kgfast.cli.plan import plan
from kgfast.core.files import naming
from kgfast.errors import KgfastError

# Before torch loads OpenMP: by default its threads spin for a millisecond at every barrier, which makes a training run
# on a busy machine several times slower and a quiet one no faster.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

RANKED_AT_ONCE = 512

app = typer.Typer(
    name="kgfast",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments=None):
    """Run the command line; a KgfastError or OSError ends in one red line and code 2.

    KGFAST_DEBUG=1 shows the traceback instead.
    """
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a mapped file that is cut from outside: where, and no mere "Bus error"
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names may be outside of the terminal's encoding
    try:
        try:
            app(arguments, prog_name="kgfast")
        finally:
            with naming("standard output"):
                sys.stdout.flush()  # here, where what can't be written is an error
    except BrokenPipeError:  # whoever reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (KgfastError, OSError) as error:
        if os.environ.get("KGFAST_DEBUG") == "1":
            raise
        errors().print(f"error: {error}", style="bold red", soft_wrap=True)
        sys.exit(2)


@app.callback()
def before(
    imports: Annotated[
        list[Path] | None,
        typer.Option("--import", metavar="FILE.py", help="A Python file to run first: scores and tasks of your own."),
    ] = None,
):
    """Knowledge-graph embeddings on fused kernels."""
    for number, path in enumerate(imports or []):
        run_file(path, f"kgfast_import_{number}")


@app.command(cls=SettingsCommand)
def train(
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="GRAPH FILE.yaml KEY=VALUE", help="A graph; any setting.", show_default=False),
    ] = None,
    data: Annotated[str | None, setting()] = None,
    header: Annotated[str | None, setting(metavar="yes|no|auto")] = None,
    columns: Annotated[str | None, setting(metavar="A,B,C")] = None,
    recipe: Annotated[str | None, setting()] = None,
    model: Annotated[str | None, setting()] = None,
    dim: Annotated[int | None, setting()] = None,
    batch_size: Annotated[int | None, setting()] = None,
    negatives: Annotated[int | None, setting()] = None,
    negative_sharing: Annotated[str | None, setting()] = None,
    objective: Annotated[str | None, setting()] = None,
    optimizer: Annotated[str | None, setting()] = None,
    lr: Annotated[float | None, setting()] = None,
    epochs: Annotated[int | None, setting()] = None,
    hits: Annotated[str | None, setting(metavar="1,3,10")] = None,
    minutes: Annotated[float | None, setting()] = None,
    seed: Annotated[int | None, setting()] = None,
    threads: Annotated[int | None, setting()] = None,
    device: Annotated[str | None, setting()] = None,
    out: Annotated[str | None, setting(metavar="FOLDER")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    as_json: Json = False,
):
    """Train a model and evaluate it; leaves RUN/config.yaml, metrics.json, checkpoint/ and report.html.

    Settings count in this order, later ones win: recipe, YAML file, KEY=VALUE pairs, options.

    A file or a recipe that has tasks trains a Transformer, the graph and questions together.
    """
    options = {key: value for key, value in locals().items() if key not in ("settings", "as_json")}
    options["resume"] = resume or None
    file, pairs = words(settings)
    from kgfast.joint.config import is_joint

    if is_joint(file, pairs, options):
        from kgfast.cli.joint_runs import train as run
    else:
        from kgfast.cli.graph_runs import train as run
    run(file, pairs, options, as_json)


@app.command()
def evaluate(
    run: Run,
    split: Annotated[str, typer.Option(help="train, valid or test.")] = "test",
    details: Annotated[bool, typer.Option("--details", help="Also by relation and kind of relation.")] = False,
    ties: Annotated[str, typer.Option(help="realistic, optimistic or pessimistic.")] = "realistic",
    hits: Annotated[str | None, typer.Option(help="The k of hits@k.", show_default="1,3,10")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Triples ranked at once.")] = RANKED_AT_ONCE,
    triples: Annotated[
        int | None, typer.Option(min=1, help="Rank so many, drawn by --seed; with a 95 % interval.", show_default="all")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Rank among so many entities, drawn by --seed: sampled metrics.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what --triples and --candidates draw.")] = 0,
    ogb: Annotated[
        bool, typer.Option("--ogb", help="Rank among the candidates that OGB gives for each triple, as OGB does.")
    ] = False,
    unseen: Annotated[
        str | None, typer.Option(help="Graph of other entities, known by texts and train (joint).", show_default=False)
    ] = None,
    facts: Annotated[
        bool, typer.Option("--facts", help="Ask the language model for the facts of the split (joint runs).")
    ] = False,
    data: Data = None,
    threads: Threads = None,
    device: Device = "auto",
    as_json: Json = False,
):
    """Filtered ranking of a run: all triples of a split, both sides, all entities, unless fewer are asked for."""
    from kgfast.use import load
    from kgfast.use.loading import is_joint

    if is_joint(run):
        given = {"--details": details, "--ties": ties != "realistic", "--batch-size": batch_size != RANKED_AT_ONCE}
        given |= {"--hits": hits is not None}
        given |= {"--triples": bool(triples), "--candidates": bool(candidates), "--seed": bool(seed), "--ogb": ogb}
        refused = [name for name, used in given.items() if used]
        if refused:
            raise KgfastError(f"{run} is a joint run, whose tasks have measures of their own: {refused[0]} can't apply")
        if facts and unseen is not None:
            raise KgfastError("--facts is of the run's own graph: it doesn't go together with --unseen")
        from kgfast.cli import joint_runs

        return joint_runs.evaluate(load(run, data, threads=threads, device=device), split, unseen, facts, as_json)
    if facts:
        raise KgfastError(f"{run} was trained on the graph alone and has no language model: --facts has no meaning")
    if unseen is not None:
        raise KgfastError(f"{run} was trained on the graph alone and reads no texts: --unseen has no meaning")
    from kgfast.cli import graph_runs

    if ogb:
        graph_runs.check_ogb(details, ties, candidates)
    trained = load(run, data, threads=threads, device=device)
    fewer = dict(triples=triples, candidates=candidates, seed=seed)
    asked = fewer if hits is None else fewer | {"hits": numbers("--hits", hits)}
    if ogb:
        return graph_runs.evaluate_ogb(trained, split, batch_size, asked, as_json)
    graph_runs.evaluate(trained, split, details, ties, batch_size, asked, as_json)


@app.command()
def predict(
    run: Run,
    head: Annotated[str | None, typer.Option(help="Name of the head.", show_default=False)] = None,
    head_text: Annotated[
        str | None, typer.Option(help="Text of a head that isn't in the graph (joint runs).", show_default=False)
    ] = None,
    edges: Annotated[
        str | None, typer.Option(help="Triples of the head of --head-text, which is ? in them.", show_default=False)
    ] = None,
    relation: Annotated[str | None, typer.Option(help="Name of the relation.", show_default=False)] = None,
    relation_text: Annotated[
        str | None, typer.Option(help="Text of a relation that isn't in the graph (joint runs).", show_default=False)
    ] = None,
    tail: Annotated[str | None, typer.Option(help="Name of the tail.", show_default=False)] = None,
    file: Annotated[
        str | None, typer.Option(help="Queries, one a line: head, relation and tail, one is ?.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of answers.")] = 10,
    known: Annotated[str, typer.Option(help="Known answers: exclude, mark or ignore.")] = "exclude",
    loops: Annotated[
        bool | None,
        typer.Option(help="Let an entity answer for itself.", show_default="as the relation does in train"),
    ] = None,
    index: Index = False,
    data: Data = None,
    threads: Threads = None,
    as_json: Json = False,
):
    """The best answers to two of --head, --relation and --tail, of which one may be a text, or to --file."""
    query = dict(head=head, relation=relation, tail=tail)
    texts = dict(head_text=head_text, relation_text=relation_text)
    from kgfast.cli import answers
    from kgfast.use import load

    answers.check_predicted(query, texts, file, edges, index)
    trained = load(run, data, threads=threads, names_only=known == "ignore")
    if any(text is not None for text in texts.values()):
        return answers.predict_for_text(trained, query, texts, edges, k, as_json)
    options = dict(k=k, known=known, loops=loops, index=index)
    if file is not None:
        return answers.predict_file(trained, file, as_json, **options)
    return answers.predict(trained, query, as_json, **options)


@app.command()
def ask(
    run: Run,
    question: Annotated[
        str | None, typer.Argument(help="A question in words; none on a terminal: a conversation.", show_default=False)
    ] = None,
    topic: Annotated[str | None, typer.Option(help="Entity asked about.", show_default="found in the question")] = None,
    file: Annotated[
        str | None, typer.Option(help="Questions, one a line, maybe a tab and the entity.", show_default=False)
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Number of answers.")] = 5,
    always: Annotated[bool, typer.Option("--always", help="Answer where it doesn't know, too.")] = False,
    data: Data = None,
    threads: Threads = None,
    as_json: Json = False,
):
    """Answer a question in words, with the triples that support each answer; the run was trained on questions."""
    from kgfast.cli import answers
    from kgfast.use import load

    answers.check_asked(question, file, topic)
    trained = load(run, data, threads=threads)
    if file is not None:
        return answers.ask_file(trained, file, k, always, as_json)
    if question is not None:
        return answers.ask(trained, question, topic, k, always, as_json)
    return answers.converse(trained, topic, k, always, as_json)


@app.command()
def serve(
    run: Run,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0: for all who reach this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    index: Index = False,
    data: Data = None,
    threads: Threads = None,
    device: Device = "auto",
):
    """Answer HTTP requests, and show a page for people: search, neighbourhoods, predictions, questions."""
    from kgfast.core.optional import needs

    for package in ("fastapi", "uvicorn"):  # before a large run is loaded
        needs(package, "kgfast serve", "serve")
    from kgfast.use import load
    from kgfast.use.server.serve import serve

    serve(load(run, data, threads=threads, device=device), host, port, errors().print, index)


@app.command()
def index(
    run: Run,
    recall: Annotated[float, typer.Option(min=0, max=1, help="Part of the exact best ten to find.")] = 0.95,
    data: Data = None,
    threads: Threads = None,
    as_json: Json = False,
):
    """Index the entities by faiss, for `predict --index` and `serve --index` on large graphs; prints its recall."""
    from kgfast.core.optional import needs

    needs("faiss", "kgfast index", "faiss")  # before a large run is loaded
    from kgfast.cli.answers import build_index
    from kgfast.use import load

    build_index(load(run, data, threads=threads, device="cpu"), recall, as_json)


for many in (many_runs.ablate, many_runs.compare, many_runs.sweep, many_runs.reproduce):
    app.command()(many)


@app.command()
def export(
    run: Run,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Folder to write to.", show_default=False)],
    format: Annotated[
        str, typer.Option(help="npy, safetensors or word2vec; hf: a folder of transformers (joint runs).")
    ] = "npy",
    data: Data = None,
    as_json: Json = False,
):
    """Write embeddings and names for other programs, or a joint run's Transformer with all that belongs to it."""
    spaces = False
    if format == "hf":
        from kgfast.cli import joint_runs

        written = joint_runs.export_folder(run, out, data)
    else:
        from kgfast.use import load

        trained = load(run, data, device="cpu", names_only=True)
        written = trained.export(out, format)
        spaces = format == "word2vec" and any(name.split() != [name] for name in trained.entities)
    if as_json:
        return print_json({"format": format, "files": [str(path) for path in written]})
    for path in written:
        print_line(path)
    if spaces:
        errors().print("white space in names is written as an underscore in .vec files")


@app.command()
def bench(
    threads: Threads = None,
    dim: Annotated[int, typer.Option(min=2, help="Real numbers in the row of an entity.")] = 256,
    as_json: Json = False,
):
    """Measure the ops on this machine, after checking them against the reference."""
    from kgfast.cli.bench import bench

    with progress_bar("measuring") as advance:
        found = bench(threads=threads, dim=dim, progress=advance)
    if as_json:
        return print_json(found)
    shape = found["shape"]
    table = plain_table(["op", "score", "triples/s", "ms"], left=(0, 1))
    for row in found["results"]:
        table.add_row(row["op"], row["score"], f"{row['triples_per_second']:,.0f}", f"{row['milliseconds']:.2f}")
    console = screen()
    console.print(table)
    console.print(
        ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in shape.items())
        + f"; {found['threads']} threads"
    )


@app.command()
def info(as_json: Json = False):
    """Versions, processor, threads and backends."""
    from kgfast.cli.info import collect

    found = collect()
    if as_json:
        return print_json(found)
    table = plain_table(["", ""], left=(0, 1))
    table.show_header = False
    for key, value in found.items():
        if key not in ("backends", "extras"):
            table.add_row(key, (", ".join(value) or "none") if isinstance(value, list) else str(value))
    for name, reason in found["backends"].items():
        table.add_row(f"backend {name}", "available" if reason is None else f"not available: {reason}")
    for name, lacking in found["extras"].items():
        told = f'pip install "kgfast[{name}]" (for {", ".join(lacking)})' if lacking else "installed"
        table.add_row(f"extra {name}", told)
    screen().print(table)


app.add_typer(data, name="data")
app.command()(plan)


if __name__ == "__main__":
    main()
