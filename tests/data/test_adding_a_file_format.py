"""docs/adding_a_file_format.md is true: its file is a format, from a package as from the folder of formats."""

import gzip
import re
import shlex
import sys
from pathlib import Path

import pytest
from data_helpers import named, write

from kgfast.cli.main import main
from kgfast.data import Format, KnowledgeGraph, add_format, formats
from kgfast.errors import DataError

PAGE = (Path(__file__).parents[2] / "docs" / "adding_a_file_format.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.usefixtures("own_cache")


def blocks(language):
    """(file, text) of the page's blocks in a language; file is None where the page names none."""
    pattern = rf"^(?:<!-- file: (\S+) -->\n)?```{language}\n(.*?)^```$"
    return [(found[1], found[2]) for found in re.finditer(pattern, PAGE, re.M | re.S)]


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The folder with the page's files, and formats as in a fresh process."""
    for file, text in blocks("python"):
        write(tmp_path / file, text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(formats, "_formats", dict(formats.formats()))
    monkeypatch.setattr(formats, "_loaded", False)
    yield tmp_path
    for module in ("json_lines", "kgfast.data.formats.json_lines"):
        sys.modules.pop(module, None)


@pytest.fixture(params=["package", "folder"])
def made_known(files, monkeypatch, request):
    """The page's file, named by an installed package or put where the other formats are."""
    if request.param == "folder":
        write(files / "formats" / "json_lines.py", (files / "json_lines.py").read_text(encoding="utf-8"))
        monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(files / "formats")])
        return files
    ((_, declared),) = blocks("toml")
    ((group, entries),) = re.findall(r'^\[project\.entry-points\."(\S+)"\]\n(.*)', declared, re.S)
    write(files / "jsonl-1.0.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: jsonl\nVersion: 1.0\n")
    write(files / "jsonl-1.0.dist-info" / "entry_points.txt", f"[{group}]\n{entries.replace(chr(34), '')}")
    monkeypatch.syspath_prepend(str(files))
    return files


def test_the_page_adds_a_format(made_known, capsys):
    check = next(text for file, text in blocks("python") if file == "check.py")
    exec(compile(check, "docs/adding_a_file_format.md", "exec"), {"__name__": "check"})
    ((_, commands),) = blocks("sh")
    for line in commands.splitlines():
        words = shlex.split(line)[1:]
        with pytest.raises(SystemExit) as end:
            main([*words, "tensorboard=false", "threads=1"] if words[0] == "train" else words)
        output = capsys.readouterr()
        assert not end.value.code, output.err
    assert (made_known / "runs" / "jsonl" / "metrics.json").exists()


def test_what_others_will_have(made_known):
    rows = '{"h": "a", "r": "p", "t": "b"}\n{"h": "b", "r": "p", "t": 7}\n'.replace("7", '"c"')
    forms = {
        "a.jsonl": rows,
        "b.ndjson": rows.replace("\n", "\r\n"),
        "c.jsonl": "\ufeff" + rows.rstrip(),
        "d.jsonl.gz": gzip.compress(rows.encode()),
        "e.jsonl": rows + "\n\n",
    }
    for name, content in forms.items():
        assert named(KnowledgeGraph.load(write(made_known / name, content))) == [("a", "p", "b"), ("b", "p", "c")]
    wrong = {"": "is empty", rows[:-9]: "a.jsonl: ", rows.replace('"c"', "[1]"): "a.jsonl: "}
    wrong[rows.replace('"c"', '""')] = "line 2: the tail is empty"
    wrong[rows.replace('"h"', '"who"')] = "no column head; it has who, r, t"
    wrong['{"h": "a", "r": "p", "t": 0.5}\n'] = "column tail holds double; names must be strings or integers"
    for content, message in wrong.items():
        with pytest.raises(DataError, match=message):
            KnowledgeGraph.load(write(made_known / "a.jsonl", content))
    write(made_known / "kg" / "train.jsonl", rows)
    write(made_known / "kg" / "dev.jsonl", rows)
    unread = KnowledgeGraph.load(made_known / "kg").report.unread
    assert unread == {"dev.jsonl": "a file of valid triples must be called valid.jsonl"}


def test_without_it_the_file_is_not_read(files):
    with pytest.raises(DataError, match="unknown kind of file; known are .txt .tsv .csv .parquet .nt"):
        KnowledgeGraph.load(write(files / "facts.jsonl", "{}"))


def test_an_ending_stands_for_one_format(files):
    def read(path, choice):
        raise AssertionError

    for suffix in (".txt", ".nt"):
        with pytest.raises(DataError, match=rf"suffix '{suffix}' is read by kgfast\.data\.formats\."):
            add_format(Format(suffixes=(suffix,), read=read))
    for suffix in ("txt", ".TXT", ".gz"):
        with pytest.raises(DataError, match="must be an ending in lower case"):
            add_format(Format(suffixes=(suffix,), read=read))
    one = Format(suffixes=(".own",), read=read)
    add_format(one)
    add_format(Format(suffixes=(".own",), read=read))  # a notebook's cell that runs again
    assert ".own" in formats.formats()
