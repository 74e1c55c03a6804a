"""What the tests of Triton's kernels share: the device they run on, and small sizes."""

import lanes  # noqa: F401  it prepares the interpreter
import torch

from kgfast import testing
from kgfast.core.environment import TRITON_INTERPRETED

DEVICE = "cpu" if TRITON_INTERPRETED else "cuda"
ENTITIES, RELATIONS = 11, 3
SIZES = dict(num_entities=ENTITIES, num_relations=RELATIONS)


def on_device(*tensors):
    return [tensor.to(DEVICE) if isinstance(tensor, torch.Tensor) else tensor for tensor in tensors]


def known_of(triples):
    return testing.make_known(triples.cpu(), count=30, **SIZES).to(DEVICE)
