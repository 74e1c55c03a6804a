"""What bridges have in common: how tables of others become ours, and the one score that several of them need."""

from __future__ import annotations

import torch
from torch import Tensor

from kgfast.reference import SCORES, register_score
from kgfast.reference.scores import complex_product, rotation

ROTATE_L2 = "rotate_l2"


def rotate_l2() -> str:
    """Registers -||h e^{i theta} - t||, the norm over all complex numbers together, and returns its name.

    PyKEEN, PyG and LibKGE with l_norm=2 score so; kgfast's `rotate` is the sum of the moduli (Sun et al. 2019).
    """
    if ROTATE_L2 not in SCORES:
        register_score(
            ROTATE_L2,
            similarity="l2",
            tail_query=lambda h, r: complex_product(h, rotation(r)),
            head_query=lambda t, r: complex_product(t, rotation(-r)),
            relation_width=lambda dim: dim // 2,
            even_dim=True,
            complex_rows=True,
            phases=True,
        )
    return ROTATE_L2


def as_halves(table: Tensor) -> Tensor:
    """Complex numbers [n, k] as reals [n, 2 k], real parts first."""
    return torch.cat([table.real, table.imag], -1)
