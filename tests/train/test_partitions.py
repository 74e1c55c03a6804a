"""Partitioned tables: what is trained, what is on the disk at any moment, and what memory it takes."""

import errno
import json
import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from training_helpers import ENTITIES, grouped_graph, run, same_bits, small_config, stop_at, write_dataset

import kgfast
from kgfast.data import KnowledgeGraph
from kgfast.nn import KGEModel
from kgfast.run import loop as run_loop
from kgfast.run.optimizers import ROW_OPTIMIZERS
from kgfast.run.seeds import generator
from kgfast.steps import NegativeSamplingStep
from kgfast.train import checkpoint, load_run
from kgfast.train.partitions import files as partition_files
from kgfast.train.partitions.order import Cut, Order, fewest_swaps


def config_of(out, **settings):
    defaults = dict(
        tables="partitioned", partitions=5, resident=2, validate_every=0, subsampling=False, epochs=3, device="cpu",
    )  # fmt: skip
    return small_config(out, **{**defaults, **settings})


@pytest.fixture(scope="module")
def graph():
    return grouped_graph()


def by_bucket(graph, partitions):
    """The same graph, its training triples in the order of buckets."""
    rows = Cut.of(graph.num_entities, partitions).rows
    order = torch.argsort(graph.train[:, 0] // rows * partitions + graph.train[:, 2] // rows, stable=True)
    return KnowledgeGraph.from_arrays(
        graph.train[order], graph.valid, graph.test, graph.num_entities, graph.num_relations, list(graph.entity_names)
    )


def learned(config, graph):
    """All tables and state of a finished run, as `checkpoint.read` has those of tables in memory."""
    saved = checkpoint.read(config.out, config, graph)
    found = {**saved.tables, **saved.optimizer}
    for path in (Path(config.out) / "checkpoint").glob("*-a.table"):
        rows = torch.from_numpy(np.fromfile(path, np.float32))
        name = path.name.removesuffix("-a.table").replace("entities-", "0/")
        found[name] = rows if len(rows) == graph.num_entities else rows.view(graph.num_entities, -1)
    return found


# The order


@pytest.mark.parametrize(
    ("partitions", "resident", "swaps"),
    [(2, 2, 0), (3, 2, 2), (4, 2, 5), (8, 3, 14), (16, 4, 42), (16, 8, 18), (32, 8, 84), (33, 16, 39), (64, 16, 168)],
)
def test_all_buckets_are_trained_once_with_few_swaps(partitions, resident, swaps):
    order, last = Order(partitions, resident, seed=3), None
    for epoch in range(3):
        found = order.groups(epoch)
        buckets = [bucket for group in found for bucket in group.buckets]
        assert sorted(buckets) == [(head, tail) for head in range(partitions) for tail in range(partitions)]
        assert all(set(bucket) <= set(group.resident) for group in found for bucket in group.buckets)
        assert all(len(group.resident) == resident for group in found)
        assert all(len(set(one.resident) - set(other.resident)) == 1 for one, other in pairwise(found))
        assert last is None or last == found[0].resident  # so that an epoch's end swaps nothing
        last = found[-1].resident
    assert len(found) - 1 == swaps
    assert fewest_swaps(partitions, resident) <= swaps <= 1.4 * fewest_swaps(partitions, resident)
    assert Order(partitions, resident, seed=3).groups(2) == found  # whatever was asked before
    assert swaps == 0 or order.groups(1) != found


# What is trained


@pytest.mark.parametrize(
    ("partitions", "settings"),
    [
        (5, dict(optimizer="row_adagrad", side="both", reciprocal=True)),
        (
            4,
            dict(
                optimizer="adam", lr=0.01, negative_sharing="chunk", negative_chunk=16, init_scale=0.1, model="rotate"
            ),
        ),
    ],
    ids=str,
)
def test_with_all_partitions_resident_it_has_the_bits_of_tables_in_memory(graph, tmp_path, partitions, settings):
    ordered = by_bucket(graph, partitions)
    cut = config_of(tmp_path / "cut", partitions=partitions, resident=partitions, **settings)
    whole = cut.replace(tables="device", out=str(tmp_path / "whole"))
    found, expected = run(cut, ordered)[0], run(whole, ordered)[0]
    assert found["test"] == expected["test"] and found["valid"] == expected["valid"]
    saved = checkpoint.read(whole.out, whole, ordered)
    assert same_bits(learned(cut, ordered), {**saved.tables, **saved.optimizer})


@pytest.mark.parametrize(
    ("optimizer", "partitions", "resident"), [("row_adagrad", 5, 2), ("adagrad", 6, 3), ("adam", 4, 3), ("sgd", 7, 4)]
)
def test_partitions_that_come_and_go_change_no_bit(graph, tmp_path, optimizer, partitions, resident):
    """The same batches and draws over tables that lie in memory whole."""
    config = config_of(tmp_path, optimizer=optimizer, partitions=partitions, resident=resident, lr_schedule="constant")
    run(config, graph)
    model = KGEModel(ENTITIES, graph.num_relations, config.dim, score=config.model, seed=config.seed)
    moved = ROW_OPTIMIZERS[optimizer]([model.entities, model.relations], lr=config.lr)
    options = dict(negatives=config.negatives, objective=config.objective, side=config.side, seed=config.seed)
    step, cut, index = NegativeSamplingStep(model, moved, **options), Cut.of(ENTITIES, partitions), 0
    heads, tails = graph.train[:, 0] // cut.rows, graph.train[:, 2] // cut.rows
    order = Order(partitions, resident, config.seed)
    for epoch in range(config.epochs):
        for place, group in enumerate(order.groups(epoch)):
            starts = torch.tensor([cut.start(partition) for partition in group.resident])
            count = sum(cut.size(partition) for partition in group.resident)
            step.draws.among(count, cut.rows, starts - cut.rows * torch.arange(resident))
            triples = torch.cat([graph.train[(heads == head) & (tails == tail)] for head, tail in group.buckets])
            shuffle = generator(config.seed, epoch * len(order.sets) + place)
            triples = triples[torch.randperm(len(triples), generator=shuffle)]
            batches = -(-len(triples) // config.batch_size)
            for batch in range(batches):
                rows = slice(batch * len(triples) // batches, (batch + 1) * len(triples) // batches)
                step(triples[rows], index)
                index += 1
    expected, numbers = checkpoint.optimizer_state(moved)
    assert not numbers and index > 3 * len(order.sets)
    assert same_bits(learned(config, graph), {**checkpoint.tables(model), **expected})


def test_groups_without_triples_are_passed_through(tmp_path):
    """A graph whose triples lie in few buckets."""
    train = torch.tensor([[head, 0, 71 - head] for head in range(10)] + [[40, 0, tail] for tail in range(30, 60)])
    graph = KnowledgeGraph.from_arrays(train, num_entities=72, num_relations=1)
    config = config_of(tmp_path / "run", partitions=6, resident=2, batch_size=8)
    found, order, steps = run(config, graph)[0], Order(6, 2, config.seed), 0
    pairs = [tuple(pair) for pair in (graph.train[:, [0, 2]] // 12).tolist()]
    for epoch in range(3):
        counts = [sum(pair in group.buckets for pair in pairs) for group in order.groups(epoch)]
        assert 0 in counts
        steps += sum(-(-count // 8) for count in counts)
    assert found["train"]["steps"] == steps and found["train"]["epochs"] == 3
    assert all(torch.isfinite(value).all() for value in learned(config, graph).values())


# What is on the disk


class Stop(Exception):
    pass


def crash():
    raise Stop


def test_a_crash_at_any_step(graph, tmp_path, monkeypatch):
    whole = config_of(tmp_path / "whole", optimizer="adam", lr=0.01)
    run(whole, graph)
    monkeypatch.setattr(run_loop, "CHECKPOINT_SHARE", 0)
    cut = whole.replace(out=str(tmp_path / "cut"), checkpoint_every=1e-9)
    sides = ""
    for index in (2, 13, 30):
        with monkeypatch.context() as patch:
            stop_at(patch, index, crash)
            with pytest.raises(Stop):
                run(cut, graph, resume=index > 2)
        saved = checkpoint.read(cut.out, cut, graph)
        assert saved.position.step == index
        assert torch.isfinite(load_run(cut.out)[0].entities).all()
        sides += saved.partitions["sides"]
    assert {*sides} == {*"ab"}  # and so were loaded partitions of one table
    run(cut, graph, resume=True)
    assert same_bits(learned(whole, graph), learned(cut, graph))
    assert (
        json.loads((tmp_path / "cut" / "metrics.json").read_text())["test"]
        == json.loads((tmp_path / "whole" / "metrics.json").read_text())["test"]
    )


def test_a_disk_that_is_full_leaves_the_checkpoint_before(graph, tmp_path, monkeypatch):
    whole = config_of(tmp_path / "whole")
    run(whole, graph)
    cut = whole.replace(out=str(tmp_path / "cut"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            run(cut, graph)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        stop_at(patch, 12, lambda: patch.setattr(os, "pwrite", full))
        with pytest.raises(OSError, match=r"No space left on device.*cut/checkpoint/entities-.*\.table"):
            run(cut, graph, resume=True)
    assert checkpoint.read(cut.out, cut, graph).position.step == 8
    run(cut, graph, resume=True)
    assert same_bits(learned(whole, graph), learned(cut, graph))


# A parent that has trained once, so that everything is loaded, forks runs and kills them.
KILLED = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
from kgfast.run import loop as run_loop
from kgfast.train import loop, resolve
whole, moments, build = resolve(sys.argv[2]), random.Random(int(sys.argv[1])), loop.build_step
graph, cut = whole.load_graph(), whole.replace(out="cut", checkpoint_every=1e-9)
loop.train(whole, graph=graph)
def build_told(*arguments):
    step = build(*arguments)
    def told(*batch):
        os.write(done, b".")
        return step(*batch)
    told.draws = step.draws
    return told
loop.build_step = build_told
for kill in (True, True, True, False):
    steps, done = os.pipe()
    run_loop.CHECKPOINT_SHARE = 0 if kill else 100
    child = os.fork()
    if not child:
        loop.train(cut, graph=graph, resume=True)
        os._exit(0)
    os.close(done)
    if kill:
        for _ in range(moments.randint(2, 9)):
            assert os.read(steps, 1)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == (signal.SIGKILL if kill else 0)
    print(loop.checkpoint.read(cut.out, cut, graph).position.step, flush=True)
"""


def test_killed_three_times(graph, tmp_path):
    data = write_dataset(graph, tmp_path / "data")
    whole = config_of(tmp_path / "whole", data=str(data), epochs=6, test_triples=3)
    whole.save(tmp_path / "whole.yaml")
    seed = str(int.from_bytes(os.urandom(3), "big"))
    print(f"moments of the kills: seed {seed}")
    command = [sys.executable, "-c", KILLED, seed, "whole.yaml"]
    environment = os.environ | {"KGFAST_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    reached = [int(step) for step in done.stdout.split()]
    assert len(reached) == 4 and reached == sorted(reached) and 0 < reached[0] < reached[-1]
    loaded = KnowledgeGraph.load(data, cache=False)
    assert same_bits(learned(whole, loaded), learned(whole.replace(out=str(tmp_path / "cut")), loaded))


# What is left


def test_a_finished_run_is_like_any_other(graph, tmp_path):
    config = config_of(tmp_path / "run", test_triples=10)
    metrics, _ = run(config, graph)
    assert metrics["test"]["triples"] == 10 and metrics["test"]["of"] == len(graph.test)
    folder = tmp_path / "run" / "checkpoint"
    assert sorted(path.name for path in folder.glob("*.table")) == ["entities-a.table", "entities-sum-a.table"]
    table = np.fromfile(folder / "entities-a.table", np.float32).reshape(ENTITIES, config.dim)
    model, names, loaded = load_run(tmp_path / "run")
    assert loaded.tables == "partitioned" and names.num_entities == ENTITIES
    assert np.array_equal(model.entities.detach().numpy(), table)
    with torch.no_grad():
        model.entities.zero_()  # is this process's alone
    assert np.array_equal(np.fromfile(folder / "entities-a.table", np.float32).reshape(table.shape), table)
    trained = kgfast.load(tmp_path / "run", names_only=True)
    assert len(trained.predict("entity 3", "1", k=4, known="ignore")) == 4
    trained.export(tmp_path / "out")
    assert np.array_equal(np.load(tmp_path / "out" / "entities.npy"), table)
    again, _ = run(config, graph, resume=True)
    assert again["test"] == metrics["test"]


@pytest.mark.parametrize("column", ["entities", "entities-sum"])
def test_a_damaged_partition_is_named(graph, tmp_path, column):
    config = config_of(tmp_path / "run")
    run(config, graph)
    path = tmp_path / "run" / "checkpoint" / f"{column}-a.table"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(kgfast.CheckpointError, match=rf"{column}-a.table is damaged: crc32 of partition 2"):
        run(config.replace(epochs=4), graph, resume=True)
    if column == "entities":
        with pytest.raises(kgfast.CheckpointError, match=r"entities-a.table is damaged: crc32 of partition 2"):
            load_run(tmp_path / "run")
        path.write_bytes(content[:-8])
        with pytest.raises(kgfast.CheckpointError, match=r"entities-a.table is damaged: bytes is"):
            load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(candidates="all", objective="softmax"), "candidates='all': must be 'sampled' with tables=partitioned"),
        (dict(negative_filter="mask"), "negative_filter='mask': must be 'none'"),
        (dict(negative_power=0.5), "negative_power=0.5: must be 0.0"),
        (dict(subsampling=True), "subsampling=True: must be False"),
        (dict(validate_every=2), "validate_every=2: must be 0"),
        (dict(resident=6), "resident=6: must be at most partitions=5"),
        (dict(partitions=1), "partitions=1: must be greater than or equal to 2"),
    ],
)
def test_what_it_can_not_do_is_refused(tmp_path, settings, message):
    with pytest.raises(kgfast.ConfigError, match=message):
        config_of(tmp_path / "run", **settings)


def test_what_does_not_fit_is_refused(graph, tmp_path, monkeypatch):
    with pytest.raises(kgfast.ConfigError, match="partitions=50: 72 entities, 2 a partition, fill 36 of them"):
        run(config_of(tmp_path / "run", partitions=50), graph)
    usage = type("Usage", (), {"free": 4096})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    with pytest.raises(kgfast.ConfigError, match=r"dim=16: the partitions of 72 entities.* 4 KiB are free"):
        run(config_of(tmp_path / "other"), graph)


def test_other_partitions_or_tables_are_another_run(graph, tmp_path):
    config = config_of(tmp_path / "run")
    run(config, graph)
    for settings in (dict(resident=3), dict(partitions=6), dict(tables="device")):
        with pytest.raises(kgfast.CheckpointError, match="checkpoint of another configuration"):
            run(config.replace(**settings), graph, resume=True)


MEMORY = """
import sys
import torch
from kgfast.data import KnowledgeGraph
from kgfast.train import TrainConfig, train
entities, tables = 200_000, sys.argv[2]
random = torch.Generator().manual_seed(0)
triples = torch.randint(entities, (20_000, 3), generator=random) % torch.tensor([entities, 7, entities])
graph = KnowledgeGraph.from_arrays(triples[20:], None, triples[:20], entities, 7)
held = dict(partitions=16, resident=2) if tables == "partitioned" else {}
config = TrainConfig(
    data="arrays", out=sys.argv[1], dim=128, epochs=1, negatives=4, negative_sharing="chunk", threads=1, device="cpu",
    tensorboard=False, tables=tables, **held,
)
print(train(config, graph=graph)["train"]["peak_memory_bytes"])
"""


@pytest.mark.slow
def test_memory_is_that_of_the_resident_partitions(tmp_path):
    peaks = {}
    for tables in ("device", "partitioned"):
        command = [sys.executable, "-c", MEMORY, str(tmp_path / tables), tables]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        peaks[tables] = int(done.stdout)
    table = 200_000 * 128 * 4
    assert peaks["device"] - peaks["partitioned"] > 0.6 * table  # 3 of 16 partitions, and one while they are made


def test_ranges_are_read_and_written_block_by_block(tmp_path, monkeypatch):
    monkeypatch.setattr(partition_files, "BLOCK", 5)
    path = tmp_path / "file"
    path.write_bytes(bytes(100))
    values, read = torch.arange(7, dtype=torch.int32), torch.empty(7, dtype=torch.int32)
    with path.open("r+b") as file:
        written = partition_files.write_range(file, 12, values)
        assert partition_files.read_range(file, 12, read) == written == partition_files.checksum(file, 12, 28)
        with pytest.raises(OSError, match="it ends 4 bytes too soon"):
            partition_files.read_range(file, 84, torch.empty_like(read))
    assert torch.equal(read, values)
    assert path.read_bytes() == bytes(12) + values.numpy().tobytes() + bytes(60)
