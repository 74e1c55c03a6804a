"""The cache of graphs: as a fresh read, mapped, and read again where it is stale or damaged."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
from data_helpers import LINES, folder, write

from kgfast.data import KnowledgeGraph
from kgfast.data import cache as cached
from kgfast.errors import DataError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def large_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "SMALLEST", 0)
    rows = [f"entity {i % 997}\tr{i % 7}\tentity {i % 89}\n" for i in range(5000)]
    texts = "".join(f"entity {i}\tthe text of {i}\n" for i in range(500))
    questions = "what ?\tentity 5\tentity 6|entity 7\n"
    return folder(
        tmp_path / "large",
        train="".join(rows),
        test=rows[0],
        entity2text=texts,
        qa_train=questions,
        qa_test="q\tx\ty",
    )


def contents(graph):
    return (
        [getattr(graph, split).tolist() for split in ("train", "valid", "test")],
        list(graph.entity_names),
        list(graph.relation_names),
        list(graph.entity_text),
        graph.entity_description,
        graph.questions,
        graph.report,
    )


def mapped_ranges(folder):
    for line in Path("/proc/self/maps").read_text().splitlines():
        if str(folder) in line:
            yield tuple(int(end, 16) for end in line.split()[0].split("-"))


@pytest.mark.parametrize("mapped", [False, True])
def test_cache_hit_equals_fresh_read(large_folder, monkeypatch, mapped):
    """Small files are read, and may be cut from outside afterwards; large ones are mapped."""
    monkeypatch.setattr(cached, "MAPPED_FROM", -1 if mapped else 1 << 30)
    fresh = KnowledgeGraph.load(large_folder, cache=False)
    assert not list(cached.cache_folder().iterdir())
    KnowledgeGraph.load(large_folder)
    monkeypatch.setattr("kgfast.data.sources.read_triples", None)  # whoever reads a source now, fails
    hit = KnowledgeGraph.load(large_folder)
    if not mapped:
        for file in cached.cache_folder().glob("*/*"):
            os.truncate(file, 0)
    assert contents(hit) == contents(fresh)
    if mapped and Path("/proc/self/maps").exists():
        ranges = list(mapped_ranges(cached.cache_folder()))
        for address in (hit.train.data_ptr(), hit.entity_names.array.buffers()[2].address):
            assert any(start <= address < end for start, end in ranges)


def test_changed_source_replaces_the_entry(large_folder):
    KnowledgeGraph.load(large_folder)
    with (large_folder / "train.txt").open("a") as file:
        file.write("new\tr0\tentity 1\n")
    graph = KnowledgeGraph.load(large_folder)
    assert graph.entity_id("new") is not None
    assert len(list(cached.cache_folder().iterdir())) == 1


def replaced(path, content, way):
    """Puts other content of the same size under the name, with the same time of change."""
    stat = path.stat()
    assert len(content) == stat.st_size
    if way == "in place":
        path.write_bytes(content)
    else:
        write(path.parent / "other", content).replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_mtime_ns == stat.st_mtime_ns


@pytest.mark.parametrize("way", ["in place", "renamed"])
@pytest.mark.parametrize("file", ["train.txt", "test.txt", "entity2text.txt", "qa_train.txt"])
def test_other_content_of_the_same_size_and_time(large_folder, way, file):
    KnowledgeGraph.load(large_folder)
    path = large_folder / file
    content = path.read_bytes()
    place = len(content) // 2 + content[len(content) // 2 :].index(b"\n") - 1  # the last letter of a line
    other = content[:place] + (b"8" if content[place : place + 1] != b"8" else b"9") + content[place + 1 :]
    replaced(path, other, way)
    assert contents(KnowledgeGraph.load(large_folder)) == contents(KnowledgeGraph.load(large_folder, cache=False))


def test_the_same_content_touched_or_copied_is_a_hit(large_folder, monkeypatch):
    KnowledgeGraph.load(large_folder)
    path = large_folder / "train.txt"
    os.utime(path, (1, 1))
    write(large_folder / "copy", path.read_bytes()).replace(path)
    monkeypatch.setattr("kgfast.data.sources.read_triples", None)
    KnowledgeGraph.load(large_folder)


def test_other_words_for_columns_are_another_entry(large_folder):
    plain = KnowledgeGraph.load(large_folder)
    turned = KnowledgeGraph.load(large_folder, columns="3,2,1")
    assert turned.train.tolist() == plain.train[:, [2, 1, 0]].tolist()
    assert contents(KnowledgeGraph.load(large_folder, columns=[3, 2, 1])) == contents(turned)
    assert contents(KnowledgeGraph.load(large_folder)) == contents(plain)


def test_files_that_came_later_are_told(large_folder):
    KnowledgeGraph.load(large_folder)
    write(large_folder / "dev.txt", "entity 1\tr1\tentity 2\n")
    assert "dev.txt" in KnowledgeGraph.load(large_folder).report.unread


def test_iris_behind_short_names_are_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "SMALLEST", 0)
    write(tmp_path / "train.nt", "<http://x.org/a> <http://x.org/p> <http://x.org/b> .\n")
    for _ in range(2):
        graph = KnowledgeGraph.load(tmp_path)
        assert graph.entity_id("http://x.org/b") == 1 and graph.relation_id("<http://x.org/p>") == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "index"])
def test_damaged_cache_is_read_again(large_folder, capsys, damage):
    fresh = KnowledgeGraph.load(large_folder)
    (entry,) = cached.cache_folder().iterdir()
    file = entry / ("index.json" if damage == "index" else "triples.npy")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content[: len(content) // 2] if damage in ("cut", "index") else content)
    again = KnowledgeGraph.load(large_folder)
    assert contents(again) == contents(fresh)
    assert f"kgfast: the cache in {entry} is damaged" in capsys.readouterr().err
    assert contents(KnowledgeGraph.load(large_folder)) == contents(fresh)
    assert capsys.readouterr().err == ""


def test_unusable_cache_is_a_warning(large_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KGFAST_CACHE", str(write(tmp_path / "file", "in the way")))
    with pytest.warns(RuntimeWarning, match="the cache of graphs in .* can't be used"):
        graph = KnowledgeGraph.load(large_folder)
    assert len(graph.train) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KnowledgeGraph.load(large_folder, cache=False)


def test_small_graphs_are_not_cached(tmp_path):
    KnowledgeGraph.load(folder(tmp_path, train=LINES))
    assert not list(cached.cache_folder().iterdir())


KILLED = """
import os, sys
from kgfast.data import KnowledgeGraph, cache
write = cache.write_parts
def killed(graph, folder):
    write(graph, folder)
    os.kill(os.getpid(), 9)
cache.write_parts, cache.SMALLEST = killed, 0
KnowledgeGraph.load(sys.argv[1])
"""


def test_what_a_killed_process_was_writing_is_removed_later(large_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KGFAST_CACHE", str(tmp_path / "own"))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(large_folder)])
    assert ended.returncode == -9
    assert [path.name.startswith(".kgfast-") for path in (tmp_path / "own").iterdir()] == [True]
    graph = KnowledgeGraph.load(large_folder)
    assert [path.name.startswith(".kgfast-") for path in (tmp_path / "own").iterdir()] == [False]
    assert KnowledgeGraph.load(large_folder).fingerprint == graph.fingerprint


def test_a_file_that_grows_or_shrinks_while_it_is_read(large_folder, monkeypatch):
    """It is read and not mapped: a process that touches what was cut would be killed."""
    path = large_folder / "train.txt"
    whole, opened = path.read_bytes(), pa.OSFile

    def cut(name):
        file = opened(name)
        path.write_bytes(whole[:1000])
        return file

    monkeypatch.setattr("kgfast.data.lines.pa.OSFile", cut)
    with pytest.raises(DataError, match=r"train\.txt changed while it was read"):
        KnowledgeGraph.load(large_folder, cache=False)
    path.write_bytes(whole)
