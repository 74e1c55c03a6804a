"""What the tests of Triton's kernels share: the device they run on, and small sizes."""

import lanes  # noqa: F401  it prepares the interpreter
import torch
from step_cases import ENTITIES, RELATIONS, SIZES  # noqa: F401

from kgfast.core.environment import TRITON_INTERPRETED

DEVICE = "cpu" if TRITON_INTERPRETED else "cuda"


def on_device(*tensors):
    return [tensor.to(DEVICE) if isinstance(tensor, torch.Tensor) else tensor for tensor in tensors]
