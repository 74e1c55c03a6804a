"""Kernels of several tasks at once: a few programs walk over the tiles of all tasks.

Each task is described by a row of FIELDS 64-bit numbers in device memory: addresses, sizes, bits of float64 numbers.
"""

import triton
import triton.language as tl

from .active_rows import compact_rows
from .candidate_tiles import join_losses, log_sum_exp_tile, score_gradient_tile
from .gradients import gradient_program
from .tiles import number, tile_of

FIELDS = tl.constexpr(40)  # numbers from one task to the next
(QUERY, TABLE, BIAS, STARTS, ENDS, ANSWERS, KNOWN_STARTS, KNOWN_ENDS, KNOWN_IDS, KNOWN_SCALE, WEIGHTS, ACTIVE_ROWS,
 NUM_ACTIVE, MAX_WEIGHT, MAX, SUM, LABEL, LOSSES, LOG_SUM_EXP, GRAD_SCORES, GRAD_QUERY_SUMS, GRAD_TABLE, SCALE, BATCH,
 COUNT, DIM, OBJECTIVE, ANSWER_LABEL, SMOOTH_LABEL, FACTOR, FORWARD_WIDTH, BACKWARD_WIDTH) = (
    tl.constexpr(place) for place in range(32))  # fmt: skip


@triton.jit(do_not_specialize=[*range(1, 33)])
def write_task(
    task_ptr,  # [FIELDS]
    query: tl.int64, table: tl.int64, bias: tl.int64, starts: tl.int64, ends: tl.int64, answers: tl.int64,
    known_starts: tl.int64, known_ends: tl.int64, known_ids: tl.int64, known_scale: tl.int64, weights: tl.int64,
    active_rows: tl.int64, num_active: tl.int64, max_weight: tl.int64, max: tl.int64, sum: tl.int64, label: tl.int64,
    losses: tl.int64, log_sum_exp: tl.int64, grad_scores: tl.int64, grad_query_sums: tl.int64, grad_table: tl.int64,
    scale: tl.int64, batch: tl.int64, count: tl.int64, dim: tl.int64, objective: tl.int64, answer_label: tl.int64,
    smooth_label: tl.int64, factor: tl.int64, forward_width: tl.int64, backward_width: tl.int64,
):  # fmt: skip
    """The fields of a task, from a kernel's arguments: no copy from the host, so that a CUDA graph can hold it."""
    tl.store(task_ptr + QUERY, query)
    tl.store(task_ptr + TABLE, table)
    tl.store(task_ptr + BIAS, bias)
    tl.store(task_ptr + STARTS, starts)
    tl.store(task_ptr + ENDS, ends)
    tl.store(task_ptr + ANSWERS, answers)
    tl.store(task_ptr + KNOWN_STARTS, known_starts)
    tl.store(task_ptr + KNOWN_ENDS, known_ends)
    tl.store(task_ptr + KNOWN_IDS, known_ids)
    tl.store(task_ptr + KNOWN_SCALE, known_scale)
    tl.store(task_ptr + WEIGHTS, weights)
    tl.store(task_ptr + ACTIVE_ROWS, active_rows)
    tl.store(task_ptr + NUM_ACTIVE, num_active)
    tl.store(task_ptr + MAX_WEIGHT, max_weight)
    tl.store(task_ptr + MAX, max)
    tl.store(task_ptr + SUM, sum)
    tl.store(task_ptr + LABEL, label)
    tl.store(task_ptr + LOSSES, losses)
    tl.store(task_ptr + LOG_SUM_EXP, log_sum_exp)
    tl.store(task_ptr + GRAD_SCORES, grad_scores)
    tl.store(task_ptr + GRAD_QUERY_SUMS, grad_query_sums)
    tl.store(task_ptr + GRAD_TABLE, grad_table)
    tl.store(task_ptr + SCALE, scale)
    tl.store(task_ptr + BATCH, batch)
    tl.store(task_ptr + COUNT, count)
    tl.store(task_ptr + DIM, dim)
    tl.store(task_ptr + OBJECTIVE, objective)
    tl.store(task_ptr + ANSWER_LABEL, answer_label)
    tl.store(task_ptr + SMOOTH_LABEL, smooth_label)
    tl.store(task_ptr + FACTOR, factor)
    tl.store(task_ptr + FORWARD_WIDTH, forward_width)
    tl.store(task_ptr + BACKWARD_WIDTH, backward_width)


# ---- fields --------------------------------------------------------------------------------------------------


@triton.jit
def size(task_ptr, FIELD: tl.constexpr, MULTIPLE_OF_16: tl.constexpr = False):
    """The hint stands here, as on what a call returns it would be lost."""
    found = tl.load(task_ptr + FIELD).to(tl.int32)
    if MULTIPLE_OF_16:
        found = tl.multiple_of(found, 16)
    return found


@triton.jit
def address(task_ptr, FIELD: tl.constexpr, TYPE: tl.constexpr):
    return tl.load(task_ptr + FIELD).to(tl.pointer_type(TYPE))


@triton.jit
def aligned_address(task_ptr, FIELD: tl.constexpr, TYPE: tl.constexpr):
    """Tables begin at multiples of 16 bytes, which makes loads of 16 bytes possible."""
    return tl.multiple_of(tl.load(task_ptr + FIELD).to(tl.pointer_type(TYPE)), 16)


@triton.jit
def real(task_ptr, FIELD: tl.constexpr, ACC: tl.constexpr):
    return number(tl.load(task_ptr + FIELD), ACC)


@triton.jit
def panel_of(task_ptr, FIELD: tl.constexpr, turn):
    """[begin, end) of the columns of a task's panel number `turn`, empty where it has no more."""
    width = tl.load(task_ptr + FIELD)
    count = tl.load(task_ptr + COUNT)
    begin = tl.minimum(width * turn, count)
    return begin.to(tl.int32), tl.minimum(begin + width, count).to(tl.int32)


@triton.jit
def next_tile(tile, end):
    """The first of this program's tiles that is not below `end`."""
    step = tl.num_programs(0)
    return tile + tl.cdiv(tl.maximum(end - tile, 0), step) * step


# ---- kernels -------------------------------------------------------------------------------------------------


@triton.jit
def grouped_compact(tasks_ptr, ACC: tl.constexpr, BLOCK_B: tl.constexpr):
    """One program a task."""
    task_ptr = tasks_ptr + tl.program_id(0) * FIELDS
    compact_rows(
        weights_ptr=address(task_ptr, WEIGHTS, ACC), starts_ptr=address(task_ptr, STARTS, tl.int64),
        ends_ptr=address(task_ptr, ENDS, tl.int64), active_rows_ptr=address(task_ptr, ACTIVE_ROWS, tl.int32),
        num_active_ptr=address(task_ptr, NUM_ACTIVE, tl.int32), max_weight_ptr=address(task_ptr, MAX_WEIGHT, ACC),
        batch=size(task_ptr, BATCH), OBJECTIVE=size(task_ptr, OBJECTIVE), ACC=ACC, BLOCK_B=BLOCK_B,
    )  # fmt: skip


@triton.jit(do_not_specialize=["num_tasks", "turn"])
def grouped_log_sum_exp(
    tasks_ptr,  # [T, FIELDS]
    num_tasks, turn, WIDE_DIM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr, SMOOTH: tl.constexpr,
    TYPE: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The partial sums of every task's panel number `turn`. WIDE_DIM: dims are multiples of 16."""
    tile = tl.program_id(0)
    done = 0
    for task in range(num_tasks):
        task_ptr = tasks_ptr + task * FIELDS
        begin, end = panel_of(task_ptr, FORWARD_WIDTH, turn)
        num_active = tl.load(address(task_ptr, NUM_ACTIVE, tl.int32))
        row_tiles, column_tiles = tl.cdiv(num_active, BLOCK_B), tl.cdiv(end - begin, BLOCK_C)
        todo = row_tiles * column_tiles
        for mine in range(tile - done, todo, tl.num_programs(0)):
            row_tile, column_tile = tile_of(mine, row_tiles, column_tiles)
            dim, batch = size(task_ptr, DIM, MULTIPLE_OF_16=WIDE_DIM), size(task_ptr, BATCH)
            part = (column_tile + 1) * batch
            log_sum_exp_tile(
                query_ptr=aligned_address(task_ptr, QUERY, TYPE), query_stride_row=dim, query_stride_dim=1,
                table_ptr=aligned_address(task_ptr, TABLE, TYPE) + tl.cast(begin, tl.int64) * dim,
                table_stride_row=dim, table_stride_dim=1, bias_ptr=address(task_ptr, BIAS, TYPE),
                starts_ptr=address(task_ptr, STARTS, tl.int64), ends_ptr=address(task_ptr, ENDS, tl.int64),
                answer_ids_ptr=address(task_ptr, ANSWERS, tl.int64),
                known_starts_ptr=address(task_ptr, KNOWN_STARTS, tl.int64),
                known_ends_ptr=address(task_ptr, KNOWN_ENDS, tl.int64),
                known_ids_ptr=address(task_ptr, KNOWN_IDS, tl.int64),
                known_scale_ptr=address(task_ptr, KNOWN_SCALE, ACC),
                active_rows_ptr=address(task_ptr, ACTIVE_ROWS, tl.int32), num_active=num_active,
                max_ptr=address(task_ptr, MAX, ACC) + part, sum_ptr=address(task_ptr, SUM, ACC) + part,
                label_ptr=address(task_ptr, LABEL, ACC) + part, row_tile=row_tile, panel_begin=begin,
                offset=column_tile * BLOCK_C, panel_end=end, dim=dim, answer_label=real(task_ptr, ANSWER_LABEL, ACC),
                smooth_label=real(task_ptr, SMOOTH_LABEL, ACC), HAS_BIAS=HAS_BIAS, HAS_KNOWN=HAS_KNOWN,
                OBJECTIVE=size(task_ptr, OBJECTIVE), SMOOTH=SMOOTH, SIMILARITY=SIMILARITY, ACC=ACC,
                INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
            )  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo


@triton.jit(do_not_specialize=["turn"])
def grouped_losses(
    tasks_ptr,  # [T, FIELDS]
    turn,
    per_task_ptr,  # [T]
    HAS_KNOWN: tl.constexpr, ACC: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """One program a task: its rows' losses in their order, so that the sum is always the same."""
    task_ptr = tasks_ptr + tl.program_id(0) * FIELDS
    begin, end = panel_of(task_ptr, FORWARD_WIDTH, turn)
    count = size(task_ptr, COUNT)
    if begin < end:
        num_active = tl.load(address(task_ptr, NUM_ACTIVE, tl.int32))
        sum = tl.zeros((BLOCK_B,), ACC)
        for block in range(0, tl.cdiv(num_active, BLOCK_B)):
            sum += join_losses(
                weights_ptr=address(task_ptr, WEIGHTS, ACC), known_scale_ptr=address(task_ptr, KNOWN_SCALE, ACC),
                active_rows_ptr=address(task_ptr, ACTIVE_ROWS, tl.int32), num_active=num_active,
                max_ptr=address(task_ptr, MAX, ACC), sum_ptr=address(task_ptr, SUM, ACC),
                label_ptr=address(task_ptr, LABEL, ACC), losses_ptr=address(task_ptr, LOSSES, ACC),
                log_sum_exp_ptr=address(task_ptr, LOG_SUM_EXP, ACC), block=block,
                num_tiles=tl.cdiv(end - begin, BLOCK_C), batch=size(task_ptr, BATCH), count=count,
                BEGIN=tl.where(turn == 0, 1, 0), LAST=end == count, HAS_KNOWN=HAS_KNOWN,
                OBJECTIVE=size(task_ptr, OBJECTIVE), ACC=ACC, BLOCK_B=BLOCK_B,
            )  # fmt: skip
        if end == count:
            tl.store(per_task_ptr + tl.program_id(0), tl.sum(sum, 0))


@triton.jit(do_not_specialize=["num_tasks", "turn"])
def grouped_score_gradients(
    tasks_ptr,  # [T, FIELDS]
    num_tasks, turn, WIDE_DIM: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_KNOWN: tl.constexpr,
    TYPE: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """dL/dscore of every task's panel number `turn`."""
    tile = tl.program_id(0)
    done = 0
    for task in range(num_tasks):
        task_ptr = tasks_ptr + task * FIELDS
        begin, end = panel_of(task_ptr, BACKWARD_WIDTH, turn)
        num_active = tl.load(address(task_ptr, NUM_ACTIVE, tl.int32))
        row_tiles, column_tiles = tl.cdiv(num_active, BLOCK_B), tl.cdiv(end - begin, BLOCK_C)
        todo = row_tiles * column_tiles
        for mine in range(tile - done, todo, tl.num_programs(0)):
            row_tile, column_tile = tile_of(mine, row_tiles, column_tiles)
            dim = size(task_ptr, DIM, MULTIPLE_OF_16=WIDE_DIM)
            score_gradient_tile(
                query_ptr=aligned_address(task_ptr, QUERY, TYPE), query_stride_row=dim, query_stride_dim=1,
                table_ptr=aligned_address(task_ptr, TABLE, TYPE) + tl.cast(begin, tl.int64) * dim,
                table_stride_row=dim, table_stride_dim=1, bias_ptr=address(task_ptr, BIAS, TYPE),
                starts_ptr=address(task_ptr, STARTS, tl.int64), ends_ptr=address(task_ptr, ENDS, tl.int64),
                answer_ids_ptr=address(task_ptr, ANSWERS, tl.int64),
                known_starts_ptr=address(task_ptr, KNOWN_STARTS, tl.int64),
                known_ends_ptr=address(task_ptr, KNOWN_ENDS, tl.int64),
                known_ids_ptr=address(task_ptr, KNOWN_IDS, tl.int64),
                known_scale_ptr=address(task_ptr, KNOWN_SCALE, ACC),
                active_rows_ptr=address(task_ptr, ACTIVE_ROWS, tl.int32), num_active=num_active,
                weights_ptr=address(task_ptr, WEIGHTS, ACC),
                max_weight=tl.load(address(task_ptr, MAX_WEIGHT, ACC)),
                log_sum_exp_ptr=address(task_ptr, LOG_SUM_EXP, ACC),
                grad_scores_ptr=aligned_address(task_ptr, GRAD_SCORES, TYPE),
                grad_stride_row=size(task_ptr, BACKWARD_WIDTH, MULTIPLE_OF_16=True),
                row_tile=row_tile, panel_begin=begin, offset=column_tile * BLOCK_C, panel_end=end,
                batch=size(task_ptr, BATCH), dim=dim, answer_label=real(task_ptr, ANSWER_LABEL, ACC),
                smooth_label=real(task_ptr, SMOOTH_LABEL, ACC), HAS_BIAS=HAS_BIAS, HAS_KNOWN=HAS_KNOWN,
                OBJECTIVE=size(task_ptr, OBJECTIVE), SIMILARITY=SIMILARITY, ACC=ACC,
                INPUT_PRECISION=INPUT_PRECISION, BLOCK_B=BLOCK_B, BLOCK_C=BLOCK_C, BLOCK_D=BLOCK_D,
            )  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo


@triton.jit(do_not_specialize=["num_tasks", "turn"])
def grouped_row_gradients(
    tasks_ptr,  # [T, FIELDS]
    num_tasks, turn, WIDE_DIM: tl.constexpr, OF_QUERIES: tl.constexpr,
    TYPE: tl.constexpr, SIMILARITY: tl.constexpr, ACC: tl.constexpr, INPUT_PRECISION: tl.constexpr,
    BLOCK_X: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_Y: tl.constexpr,
):  # fmt: skip
    """OF_QUERIES: adds the panels' parts of the query gradients to the sums; else writes the table gradients."""
    tile = tl.program_id(0)
    done = 0
    for task in range(num_tasks):
        task_ptr = tasks_ptr + task * FIELDS
        begin, end = panel_of(task_ptr, BACKWARD_WIDTH, turn)
        num_active = tl.load(address(task_ptr, NUM_ACTIVE, tl.int32))
        dim = size(task_ptr, DIM, MULTIPLE_OF_16=WIDE_DIM)
        x_count = end - begin
        if OF_QUERIES:
            x_count = tl.where(begin < end, num_active, 0)
        todo = tl.cdiv(x_count, BLOCK_X) * tl.cdiv(dim, BLOCK_D)
        for mine in range(tile - done, todo, tl.num_programs(0)):
            grad_ptr = aligned_address(task_ptr, GRAD_SCORES, TYPE)
            grad_stride_row = size(task_ptr, BACKWARD_WIDTH, MULTIPLE_OF_16=True)
            query_ptr = aligned_address(task_ptr, QUERY, TYPE)
            offset = tl.cast(begin, tl.int64) * dim
            panel_ptr = aligned_address(task_ptr, TABLE, TYPE) + offset
            active_rows_ptr = address(task_ptr, ACTIVE_ROWS, tl.int32)
            if OF_QUERIES:
                sums_ptr = aligned_address(task_ptr, GRAD_QUERY_SUMS, ACC)
                gradient_program(
                    grad_ptr=grad_ptr, grad_stride_x=grad_stride_row, grad_stride_y=1, x_ptr=query_ptr,
                    x_count=num_active, y_ptr=panel_ptr, y_stride_row=dim, y_stride_dim=1, y_count=end - begin,
                    active_rows_ptr=active_rows_ptr, scale=1.0, sums_ptr=sums_ptr, out_ptr=sums_ptr, program=mine,
                    dim=dim, ADD=True, LAST=False, X_ACTIVE=True, Y_ACTIVE=False, Y_TRANSPOSED=False,
                    SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D,
                    BLOCK_Y=BLOCK_Y,
                )  # fmt: skip
            else:
                scale = tl.load(address(task_ptr, SCALE, ACC)) * real(task_ptr, FACTOR, ACC)
                out_ptr = aligned_address(task_ptr, GRAD_TABLE, TYPE) + offset
                gradient_program(
                    grad_ptr=grad_ptr, grad_stride_x=1, grad_stride_y=grad_stride_row, x_ptr=panel_ptr,
                    x_count=x_count, y_ptr=query_ptr, y_stride_row=dim, y_stride_dim=1, y_count=num_active,
                    active_rows_ptr=active_rows_ptr, scale=scale, sums_ptr=out_ptr, out_ptr=out_ptr, program=mine,
                    dim=dim, ADD=False, LAST=True, X_ACTIVE=False, Y_ACTIVE=True, Y_TRANSPOSED=False,
                    SIMILARITY=SIMILARITY, ACC=ACC, INPUT_PRECISION=INPUT_PRECISION, BLOCK_X=BLOCK_X, BLOCK_D=BLOCK_D,
                    BLOCK_Y=BLOCK_Y,
                )  # fmt: skip
        tile = next_tile(tile, done + todo)
        done += todo
