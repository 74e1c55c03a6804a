"""A module that uses the ops, in DistributedDataParallel: two processes with half a batch each do what one does with
all of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import kgfast

BATCH, NEGATIVES = 8, 3


class Loss(nn.Module):
    """Embeddings and their loss."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.entities, self.relations = nn.Embedding(11, 6), nn.Embedding(3, 6)

    def forward(self, triples, negatives):
        tables = self.entities, self.relations
        sampled = kgfast.negative_sampling_loss(*tables, triples, negatives, score="complex", side="tail")
        return sampled + kgfast.one_vs_all_loss(*tables, triples, score="complex", side="head")


def batch():
    generator = torch.Generator().manual_seed(1)
    triples = torch.stack([torch.randint(size, (BATCH,), generator=generator) for size in (11, 3, 11)], 1)
    return triples, torch.randint(11, (BATCH, NEGATIVES), generator=generator)


def train(rank, folder):
    """One of two processes."""
    address = f"file://{folder}/store"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = nn.parallel.DistributedDataParallel(Loss())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(*(part.chunk(2)[rank] for part in batch())).backward()
    optimizer.step()
    torch.save(model.module.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    command = [sys.executable, __file__]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], cwd=Path(__file__).parents[2], stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    told = [process.communicate(timeout=120)[1].decode() for process in processes]
    assert not any(process.returncode for process in processes), told
    model = Loss()
    model(*batch()).backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for name, whole in model.state_dict().items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], whole)
        assert not torch.equal(whole, Loss().state_dict()[name])


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(int(sys.argv[1]), sys.argv[2])
