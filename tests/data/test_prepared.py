"""Graphs that are prepared on disk: the same as read into memory, whatever the order, the splits, or who is killed."""

import bz2
import gzip
import json
import os
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from data_helpers import LINES, TRIPLES, folder, named, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kgfast.core.files import lock, new_folder
from kgfast.data import KnowledgeGraph, blocks, findings, prepare
from kgfast.data.lines import read_lines
from kgfast.data.prepared import hashing, numbering, reading, spill
from kgfast.data.prepared import prepare as preparing
from kgfast.data.prepared.folder import write_index
from kgfast.errors import DataError, KgfastError

pytestmark = pytest.mark.usefixtures("own_cache")
SPLITS = ("train", "valid", "test")
MASK = 2**64 - 1
NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\r\n"), min_size=1)


def random_lines(count, seed=0, entities=60, relations=4):
    random = np.random.default_rng(seed)
    ends = random.integers(entities, size=(count, 2)) ** 2 // entities
    return "".join(
        f"e{h}\tr{r}\te{t}\n" for (h, t), r in zip(ends, random.integers(relations, size=count), strict=True)
    )


@pytest.fixture
def small_blocks(monkeypatch):
    """Files are read in many parts."""
    monkeypatch.setattr(blocks, "SIZE", 500)


def both(source, out, **words):
    """(read into memory, prepared on disk)."""
    prepare(source, out, **words)
    return KnowledgeGraph.load(source, cache=False, **words), KnowledgeGraph.load(out)


def assert_same(memory, disk):
    """The same graph, but for ids and order; the same report, but for what tells of them."""
    assert set(memory.entity_names) == set(disk.entity_names)
    assert set(memory.relation_names) == set(disk.relation_names)
    for split in SPLITS:
        assert Counter(named(memory, split)) == Counter(named(disk, split))
    ours, theirs = memory.report.as_dict(), disk.report.as_dict()
    for report in (ours, theirs):
        del report["fingerprint"], report["name"]
        report["notes"] = [note for note in report["notes"] if "such as" not in note]  # which three are told may differ
        report["inverse_pairs"].sort(key=lambda pair: (pair["relation"], pair["inverse"]))
    assert ours == theirs


def test_both_paths_find_the_same(tmp_path, small_blocks):
    source = folder(
        tmp_path / "a",
        train=random_lines(900) + "e1\tr9\te1\n" * 3 + "e1\tboth\te2\ne2\tboth\te1\n",
        valid=random_lines(100, 1) + "new\tr1\te1\n",
        test=random_lines(100, 2) + "e1\tnew\te2\n",
        entity2text="e1\tone\n",
        qa_train="who?\te1\te2\n",
    )
    memory, disk = both(source, tmp_path / "b")
    assert_same(memory, disk)
    assert disk.report.duplicates["train"] > 3 and disk.report.inverse_pairs and sum(disk.report.leaked.values())
    assert disk.label(disk.entity_id("e1")) == "one" and disk.questions["train"][0][0] == "who?"
    assert not (tmp_path / "b.partial").exists()


def test_ids_are_the_order_of_hashes(tmp_path):
    def mixed(x):
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
        return x ^ (x >> 31)

    def hashed(name):
        content = name.encode()
        found = mixed(len(content))
        for place in range(0, len(content), 8):
            found = mixed(found ^ int.from_bytes(content[place : place + 8], "little"))
        return found

    names = ["a", "東京", "just-8-b", "one more than sixteen", "x" * 100, "\x00", "\x00\x00"]
    lines = "".join(f"{name}\tr\ta\n" for name in names)
    prepare(write(tmp_path / "a.tsv", lines), tmp_path / "a")
    prepare(write(tmp_path / "b.tsv", "".join(reversed(lines.splitlines(True)))), tmp_path / "b")
    one, two = KnowledgeGraph.load(tmp_path / "a"), KnowledgeGraph.load(tmp_path / "b")
    assert list(one.entity_names) == sorted(names, key=hashed)
    assert one.fingerprint == two.fingerprint


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(NAME, NAME, NAME), min_size=1), size=st.integers(1, 40))
def test_any_names(tmp_path_factory, rows, size):
    path = tmp_path_factory.mktemp("any")
    write(path / "a.tsv", "".join("\t".join(row) + "\n" for row in rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "SIZE", size)
        memory, disk = both(path / "a.tsv", path / "out", header=False)
    assert set(named(memory)) == set(named(disk)) and set(memory.entity_names) == set(disk.entity_names)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.lists(st.sampled_from(["a", "é", "\n", "\r\n", "\r", "\n\n", "\ufeff"])).map("".join),
    size=st.integers(1, 9),
)
def test_blocks_are_the_lines_of_the_file(tmp_path_factory, text, size):
    path = write(tmp_path_factory.mktemp("blocks") / "a.txt", text)
    try:
        expected = read_lines(path).to_pylist()
    except DataError:
        with pytest.raises(DataError, match="is empty"):
            list(blocks.blocks(path, size=size))
        return
    found = []
    for block in blocks.blocks(path, size=size):
        assert block.line == len(found) + 1
        found += block.data.to_pybytes().decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")
    assert found == expected


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda data: pa.compress(data, "zstd", asbytes=True)])
def test_packed_files(tmp_path, small_blocks, pack):
    lines = random_lines(300).encode()
    name = {b"\x1f\x8b": "a.tsv.gz", b"BZ": "a.tsv.bz2"}.get(pack(b"a")[:2], "a.tsv.zst")
    assert_same(*both(write(tmp_path / name, pack(lines)), tmp_path / "out"))
    for content, message in ((pack(lines)[:-9], "broken (gzip|bzip2|Zstandard) data"), (pack(b""), "is empty")):
        path = write(tmp_path / name, content)
        for read in (lambda path: KnowledgeGraph.load(path), lambda path: prepare(path, tmp_path / "no")):
            with pytest.raises(DataError, match=message):
                read(path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, "out"])  # nothing of what failed


def test_a_quoted_name_that_spans_lines_and_blocks(tmp_path, small_blocks):
    rows = "".join(f'"name {i},\n""and"" more",r{i % 3},"{i % 7}"\n' for i in range(200))
    assert_same(*both(write(tmp_path / "a.csv", "head,relation,tail\n" + rows), tmp_path / "out"))
    with pytest.raises(DataError, match=r"b\.csv, line 203: a space before a quote"):
        prepare(write(tmp_path / "b.csv", rows[: rows.index('"name 101')] + 'a, "b",c\n' + rows), tmp_path / "no")


BAD = {
    50: (b"e1\tr1", "found 2"),
    120: (b"e1\t\te2", "the relation is empty"),
    130: (b"e\xff\tr1\te2", "not valid UTF-8"),
}


def test_bad_lines(tmp_path, small_blocks):
    lines = random_lines(300).encode().splitlines()
    for number, (line, _) in BAD.items():
        lines.insert(number - 1, line)
    path = write(tmp_path / "a.tsv", b"\n".join(lines))
    with pytest.raises(DataError, match=r"a\.tsv, line 50: expected 3 tab-separated columns, found 2"):
        prepare(path, tmp_path / "out")
    report = prepare(path, tmp_path / "out", on_bad_line="skip")
    assert report.bad_lines["count"] == {"a.tsv": 3} and report.read["train"] == 300
    found = report.bad_lines["first"]["a.tsv"]
    assert [place for place, _ in found] == [f"line {number}" for number in BAD]
    assert all(words in reason for (_, reason), (_, words) in zip(found, BAD.values(), strict=True))
    assert any("a.tsv: 3 lines can't be read and were left out" in line for line in report.lines())
    good = write(tmp_path / "b.tsv", random_lines(300))
    assert set(named(KnowledgeGraph.load(tmp_path / "out"))) == set(named(KnowledgeGraph.load(good)))


@pytest.mark.parametrize(
    ("name", "content", "place", "reason"),
    [
        ("a.nt", b"<a:s> <a:p> <a:o> .\noops\n<a:s> <a:p> <a:\xff> .\n", ["line 2", "line 3"], "not an N-Triples"),
        ("a.csv", b"a,b,c\nd,e,f\nx,y\n", ["line 3"], "found 2"),
        ("a.tsv", b"a\tb\nc\td\te\n", ["line 1"], "found 2"),
    ],
)
def test_bad_lines_of_other_files(tmp_path, name, content, place, reason):
    report = prepare(write(tmp_path / name, content), tmp_path / "out", on_bad_line="skip")
    found = report.bad_lines["first"][name]
    assert sorted(where for where, _ in found) == place and any(reason in why for _, why in found)
    assert sum(report.read.values()) == content.count(b"\n") - len(place)


def test_rows_without_a_name(tmp_path):
    table = pa.table({"head": ["a", None, "c"], "relation": ["r", "r", ""], "tail": ["b", "c", "d"]})
    with pytest.raises(DataError, match="table, row 1: the head is empty"):
        prepare(table, tmp_path / "out")
    report = prepare(table, tmp_path / "out", on_bad_line="skip")
    assert report.bad_lines["first"] == {"table": [["row 1", "the head is empty"], ["row 2", "the relation is empty"]]}
    assert report.triples["train"] == 1 and not (tmp_path / "out.partial").exists()


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.integers(0, 30)), min_size=40, unique=True),
    seed=st.integers(0, 2**63 - 1),
)
def test_splits_keep_every_name_in_train(tmp_path_factory, ids, seed):
    path = tmp_path_factory.mktemp("split")
    table = pa.table({name: list(column) for name, column in zip("hrt", zip(*ids, strict=True), strict=True)})
    names = {end for h, _, t in ids for end in (h, t)} | {("r", r) for _, r, _ in ids}
    spare = len(ids) - len(names)  # so many, at least, may leave train
    share = max(0, spare // 2 / len(ids))
    shares = [1 - 2 * share, share, share]
    prepare(table, path / "a", split=shares, seed=seed)
    graph = KnowledgeGraph.load(path / "a")
    assert len(graph.valid) == len(graph.test) == round(len(ids) * share)
    triples = [{tuple(map(int, row)) for row in named(graph, split)} for split in SPLITS]
    assert set.union(*triples) == set(ids) and sum(map(len, triples)) == len(ids)
    assert graph.report.unseen_entities["all"] == graph.report.unseen_relations["all"] == 0
    prepare(table.take(list(range(len(ids)))[::-1]), path / "b", split=",".join(map(str, shares)), seed=seed)
    assert KnowledgeGraph.load(path / "b").fingerprint == graph.fingerprint  # whatever the order


def test_splits_are_even_and_of_the_seed(tmp_path):
    ids = np.stack(np.meshgrid(np.arange(60), np.arange(3), np.arange(60)), -1).reshape(-1, 3)
    table = pa.table(dict(zip("hrt", ids.T, strict=True)))
    heads = []
    for seed in (0, 1):
        prepare(table, tmp_path / str(seed), split="0.8,0.1,0.1", seed=seed)
        valid = KnowledgeGraph.load(tmp_path / str(seed)).valid
        heads.append(np.bincount(valid[:, 0], minlength=60))
        assert len(valid) == 1080 and 4 < heads[-1].min() and heads[-1].max() < 36  # 18 of each are expected
    assert (heads[0] != heads[1]).any()
    with pytest.raises(DataError, match=r"1,000 triples for valid and test are too many: [\d,]+ of 1,000 may leave"):
        prepare(table.slice(0, 1000), tmp_path / "no", split="1e-9,0.5,0.5")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"split": "0.9,0.1"}, "split must be three shares"),
        ({"split": "0.9,0.2,0.1"}, "must add up to 1"),
        ({"split": (0, 0.5, 0.5)}, "train's not be 0"),
        ({"seed": -1}, "seed"),
        ({"on_bad_line": "warn"}, "on_bad_line must be"),
        ({"literals": "some"}, "literals must be 'drop' or 'keep'"),
        ({"literals": "keep"}, "literals have no meaning"),
    ],
)
def test_wrong_words(tmp_path, words, message):
    path = write(tmp_path / "a.tsv", LINES)
    with pytest.raises(KgfastError, match=message):
        prepare(path, tmp_path / "out", **words)
    assert sorted(tmp_path.iterdir()) == [path]


def test_wrong_folders(tmp_path):
    path = write(tmp_path / "a.tsv", LINES)
    with pytest.raises(DataError, match="exists and is not an empty folder"):
        prepare(path, tmp_path)
    with pytest.raises(DataError, match="is split already, into train, test"):
        prepare(folder(tmp_path / "two", train=LINES, test=LINES), tmp_path / "out", split="0.8,0.1,0.1")
    prepare(path, tmp_path / "new" / "out")
    with pytest.raises(DataError, match="is a prepared graph already"):
        prepare(tmp_path / "new" / "out", tmp_path / "again")
    with pytest.raises(DataError, match="header and columns have no meaning"):
        KnowledgeGraph.load(tmp_path / "new" / "out", columns="1,2,3")
    with in_use(tmp_path / "busy.partial"), pytest.raises(DataError, match="another process prepares"):
        prepare(path, tmp_path / "busy")


@contextmanager
def in_use(path: Path):
    handle = new_folder(path)
    assert lock(handle)
    yield
    os.close(handle)


def test_who_is_stopped_goes_on(tmp_path, small_blocks, monkeypatch):
    path = write(tmp_path / "a.tsv", random_lines(600) + "oops\n" + random_lines(300, 7))
    prepare(path, tmp_path / "whole", on_bad_line="skip")
    monkeypatch.setattr("kgfast.data.prepared.work.EVERY", 0)
    append, counts = reading.Spills.append, []

    def stopping(self, *arguments):
        counts[-1] += 1
        if counts[-1] == 4:
            raise KeyboardInterrupt
        return append(self, *arguments)

    monkeypatch.setattr(reading.Spills, "append", stopping)
    for _ in range(9):
        counts.append(0)
        with pytest.raises(KeyboardInterrupt):
            prepare(path, tmp_path / "out", on_bad_line="skip")
        assert (tmp_path / "out.partial" / "progress.json").exists() and not (tmp_path / "out").exists()
        # what was written behind the last state is taken back
        with (tmp_path / "out.partial" / "spill" / "train.rows").open("ab") as file:
            file.write(b"half a row")
        if len(counts) == 4:
            os.utime(path, (1, 1))  # another source, for all that is known: from the beginning
    assert all(count == 4 for count in counts)
    monkeypatch.setattr(reading.Spills, "append", append)
    report = prepare(path, tmp_path / "out", on_bad_line="skip")
    assert report.bad_lines["count"] == {"a.tsv": 1} and report.read["train"] == 900
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("stage", ["number_names", "number_triples", "split_triples", "examine_parts", "write_index"])
def test_who_is_stopped_later_goes_on_too(tmp_path, monkeypatch, stage):
    path, words = write(tmp_path / "a.tsv", random_lines(300)), {"split": "0.9,0.05,0.05"}
    prepare(path, tmp_path / "whole", **words)
    right = getattr(preparing, stage)

    def stopping(*arguments):
        right(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparing, stage, stopping)
        prepare(path, tmp_path / "out", **words)
    monkeypatch.setattr(reading.Spills, "append", None)  # all is read
    prepare(path, tmp_path / "out", **words)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert len(KnowledgeGraph.load(tmp_path / "out").valid)


def content(path: Path) -> dict:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.suffix not in (".json",)}


def test_names_with_one_hash(tmp_path, monkeypatch):
    """Another salt is taken until no two names have one."""
    right = hashing.name_hashes

    def weak(names, salt=0):
        return right(names, salt) if salt == 2 else right(names, salt) & np.uint64(15 << 60)

    monkeypatch.setattr(reading, "name_hashes", weak)
    memory, disk = both(write(tmp_path / "a.tsv", random_lines(200)), tmp_path / "out")
    assert_same(memory, disk)
    assert json.loads((tmp_path / "out" / "graph.json").read_text())["salt"] == 2


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, unique=True), st.data())
def test_places_of_hashes(hashes, data):
    table = numbering.HashTable(np.sort(np.array(hashes, np.uint64)))
    asked = data.draw(st.lists(st.sampled_from(hashes), min_size=1))
    assert table.find(np.array(asked, np.uint64)).tolist() == [sorted(hashes).index(one) for one in asked]


@pytest.mark.parametrize("name", ["entities.names", "entities.offsets", "train.triples", "report.json"])
def test_a_damaged_folder(tmp_path, name):
    prepare(write(tmp_path / "a.tsv", LINES), tmp_path / "out")
    path = tmp_path / "out" / name
    data = bytearray(path.read_bytes())
    data[9] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{name} has changed since it was written"):
        KnowledgeGraph.load(tmp_path / "out")
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        KnowledgeGraph.load(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("entities.offsets", 10**6, "entities.offsets tells of another number"),
        ("train.triples", 10**6, r"is outside \[0, "),
        ("train.triples", -1, r"is outside \[0, "),
    ],
)
def test_a_folder_that_lies(tmp_path, name, value, message):
    """Its hashes are right, and its content would lead outside of memory."""
    prepare(write(tmp_path / "a.tsv", LINES), tmp_path / "out")
    numbers = np.fromfile(tmp_path / "out" / name, "<i8")
    numbers[-1] = value
    numbers.tofile(tmp_path / "out" / name)
    (tmp_path / "out" / "graph.json").unlink()
    write_index(tmp_path / "out", 0)
    with pytest.raises(DataError, match=message):
        KnowledgeGraph.load(tmp_path / "out")


def test_parts_of_runs(tmp_path):
    """A part has what belongs to it, of all runs."""
    names = spill.NameSpill(tmp_path, "names")
    random, expected = np.random.default_rng(0), {}
    for _ in range(3):
        hashes = np.sort(random.integers(0, 2**64, 500, np.uint64))
        strings = [f"é{number}" for number in hashes.tolist()]
        names.append(hashes, pa.array(strings, pa.large_string()))
        for number, string in zip(hashes.tolist(), strings, strict=True):
            expected.setdefault(number >> 56, []).append((number, string))
    for part, (hashes, strings) in enumerate(names.parts()):
        assert list(zip(hashes.tolist(), strings.to_pylist(), strict=True)) == expected.get(part, [])
    names.close()


def test_long_ids_and_many_relations(tmp_path):
    """More relations x entities x entities than fit into 64 bits."""
    count = 3000
    table = pa.table({"h": np.arange(count), "r": np.arange(count) % 2500, "t": np.arange(count)[::-1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "LARGEST", 10**6)
        prepare(table, tmp_path / "a")
    prepare(table, tmp_path / "b")
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_names_of_triples_stay(tmp_path):
    prepare(write(tmp_path / "a.tsv", LINES), tmp_path / "out")
    graph = KnowledgeGraph.load(tmp_path / "out")
    assert set(named(graph)) == set(TRIPLES)
    assert graph.entity_names[graph.entity_id("東京")] == "東京"
    graph.save(tmp_path / "saved")
    assert set(named(KnowledgeGraph.load(tmp_path / "saved"))) == set(TRIPLES)
