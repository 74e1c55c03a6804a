"""A batch of triples as a step reads it: its columns, one launch that also checks every id."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

COLUMNS = 5  # heads, tails, heads, relations, inverse relations: what two sides ask for lies one behind the other


@triton.jit(do_not_specialize=["batch", "entities", "relations", "inverse"])
def split_columns(
    triples_ptr,  # [B, 3]
    columns_ptr,  # [5, B]
    inside_ptr,  # [blocks], bool: whether all ids of a block are ids
    batch, entities, relations, inverse, BLOCK_B: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_B + tl.arange(0, BLOCK_B)
    live = row < batch
    head = tl.load(triples_ptr + 3 * row, mask=live, other=0)
    relation = tl.load(triples_ptr + 3 * row + 1, mask=live, other=0)
    tail = tl.load(triples_ptr + 3 * row + 2, mask=live, other=0)
    wide = tl.cast(batch, tl.int64)
    out_ptrs = columns_ptr + row
    tl.store(out_ptrs, head, mask=live)
    tl.store(out_ptrs + wide, tail, mask=live)
    tl.store(out_ptrs + 2 * wide, head, mask=live)
    tl.store(out_ptrs + 3 * wide, relation, mask=live)
    tl.store(out_ptrs + 4 * wide, relation + inverse, mask=live)
    low = tl.minimum(tl.minimum(head, tail), relation)
    wrong = live & ((low < 0) | (tl.maximum(head, tail) >= entities) | (relation >= relations))
    tl.store(inside_ptr + tl.program_id(0), tl.max(wrong.to(tl.int32), 0) == 0)


def columns_of(triples, entities: int, relations: int, inverse: int):
    """(columns [5, B], whether the ids of each block of triples are ids)."""
    batch = len(triples)
    block = min(4096, max(32, triton.next_power_of_2(batch)))
    blocks = triton.cdiv(batch, block)
    columns = torch.empty((COLUMNS, batch), dtype=torch.int64, device=triples.device)
    inside = torch.empty((blocks,), dtype=torch.bool, device=triples.device)
    if batch:
        split_columns[(blocks,)](
            triples_ptr=triples,
            columns_ptr=columns,
            inside_ptr=inside,
            batch=batch,
            entities=entities,
            relations=relations,
            inverse=inverse,
            BLOCK_B=block,
            num_warps=max(1, block // 512),
        )
    return columns, inside
