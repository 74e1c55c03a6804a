"""The compiled module: addresses, sizes and codes in; results are written where they point. Arguments come checked."""

from collections.abc import Sequence
from typing import TypeAlias

_Rows: TypeAlias = tuple[int, int]  # address, count
_Order: TypeAlias = tuple[int, int, int]  # entries, starts, number of unique ids
# rule, rows, state1, state2, lr, eps, beta1, beta2, Adam's rate
_Update: TypeAlias = tuple[int, int, int, int, float, float, float, float, float]
_CudaUpdate: TypeAlias = tuple[int, int, int, int, int]  # rule, rows, state1, state2, constants
_Target: TypeAlias = tuple[bool, int]  # on the host, stream

__version__: str

# lists of arguments stay as compact as in C++
# fmt: off
def all_scores(
    dtype: int, similarity: int, query: int, table: int, batch: int, count: int, dim: int, threads: int, scores: int
) -> None: ...
def all_scores_gradient(
    dtype: int, similarity: int, query: int, table: int, scores: int, g: int, batch: int, count: int, dim: int,
    threads: int, d_query: int, d_table: int
) -> None: ...
def bf16_supported() -> bool: ...
def candidate_loss(
    dtype: int, similarity: int, objective: int, smoothing: float, query: int, table: int, bias: int, starts: int,
    ends: int, answers: int, weights: int, batch: int, count: int, dim: int, workspace: int, threads: int, bf16: bool,
    losses: int, d_query: int, d_table: int, d_bias: int, known_starts: int = 0, known_ends: int = 0, known: int = 0
) -> None: ...
def cpu_level() -> str: ...
def cpu_levels() -> list[str]: ...
def enumerations() -> dict[str, dict[str, int]]: ...
def order_rows(sources: Sequence[_Rows], rows: int, threads: int, entries: int, starts: int, single: int) -> int: ...
def pair_ids(targets: int, negatives: int, batch: int, count: int, threads: int, ids: int) -> None: ...
def pair_query_gradient(
    dtype: int, similarity: int, query: int, table: int, ids: int, scores: int, g: int, batch: int, width: int,
    dim: int, threads: int, coefficients: int, d_query: int
) -> None: ...
def pair_scores(
    dtype: int, similarity: int, query: int, table: int, ids: int, batch: int, width: int, dim: int, threads: int,
    scores: int
) -> None: ...
def queries(
    dtype: int, score: int, side: int, entities: int, relations: int, triples: int, batch: int, dim: int,
    relation_width: int, threads: int, out: int
) -> None: ...
def queries_adjoint(
    dtype: int, score: int, side: int, entities: int, relations: int, triples: int, batch: int, dim: int,
    relation_width: int, threads: int, d_query: int, d_anchor: int, d_relation: int
) -> None: ...
def rank(
    dtype: int, similarity: int, query: int, table: int, targets: int, starts: int, ends: int, known: int, batch: int,
    count: int, dim: int, threads: int, greater: int, equal: int, target_scores: int
) -> None: ...
def reduce_rows(
    dtype: int, similarity: int, query: int, table: int, coefficients: int, queries: int, width: int, dim: int,
    extras: Sequence[_Rows], threads: int, order: _Order, single: int, update: _Update
) -> None: ...
def regularizer(
    dtype: int, kind: int, parts: int, weight: float, table: int, ids: int, count: int, dim: int, threads: int,
    gradients: int
) -> None: ...
def release_scratch() -> None: ...
def sample(
    seed: int, step: int, side: int, lists: int, count: int, entities: int, weights: int,
    starts: int, ends: int, known: int, threads: int, ids: int
) -> None: ...
def sampled_loss(
    dtype: int, similarity: int, objective: int, margin: float, temperature: float, query: int, table: int,
    targets: int, negatives: int, starts: int, ends: int, known: int, weights: int, batch: int, groups: int,
    count: int, dim: int, threads: int, ids: int, single: int, update: _Update | None, losses: int, d_query: int,
    coefficients: int, d_negatives: int
) -> None: ...
def scores() -> list[tuple[str, str, int]]: ...
def scratch_bytes() -> int: ...
def set_cpu_level(name: str) -> None: ...
def topk(
    dtype: int, similarity: int, query: int, table: int, starts: int, ends: int, excluded: int, batch: int,
    count: int, dim: int, k: int, threads: int, scores: int, ids: int
) -> None: ...
def update_all_rows(dtype: int, rows: int, dim: int, gradients: int, update: _Update, threads: int) -> None: ...
def use_huge_pages(memory: int, bytes: int) -> bool: ...

class cuda:  # a submodule
    about: str
    built: bool
    on_host: bool
    tile_pairs: int

    @staticmethod
    def host_grids() -> list[tuple[int, int]]: ...
    @staticmethod
    def watch_host(runs: bool) -> None: ...
    @staticmethod
    def pair_query_gradient(
        target: _Target, similarity: int, query: int, table: int, ids: int, scores: int, g: int, batch: int,
        width: int, dim: int, coefficients: int, d_query: int
    ) -> None: ...
    @staticmethod
    def pair_scores(
        target: _Target, similarity: int, query: int, table: int, ids: int, batch: int, width: int, dim: int,
        scores: int
    ) -> None: ...
    @staticmethod
    def queries(
        target: _Target, score: int, side: int, entities: int, relations: int, triples: int, batch: int, dim: int,
        relation_width: int, out: int
    ) -> None: ...
    @staticmethod
    def queries_adjoint(
        target: _Target, score: int, side: int, entities: int, relations: int, triples: int, batch: int, dim: int,
        relation_width: int, d_query: int, d_anchor: int, d_relation: int
    ) -> None: ...
    @staticmethod
    def reduce_rows(
        target: _Target, similarity: int, entries: int, places: int, total: int, first: tuple[int, int], query: int,
        table: int, coefficients: int, pairs: int, width: int, dim: int, extras: Sequence[_Rows], partial: int,
        update: _CudaUpdate
    ) -> None: ...
    @staticmethod
    def regularizer(
        target: _Target, kind: int, parts: int, weight: float, table: int, ids: int, count: int, dim: int,
        gradients: int
    ) -> None: ...
    @staticmethod
    def sample(
        target: _Target, seed: int, step: int, step_at: int, side: int, lists: int, count: int, entities: int,
        weights: int, starts: int, ends: int, known: int, ids: int
    ) -> None: ...
    @staticmethod
    def sampled_loss(
        target: _Target, similarity: int, objective: int, margin: float, temperature: float, query: int, table: int,
        targets: int, negatives: int, starts: int, ends: int, known: int, weights: int, batch: int, groups: int,
        count: int, dim: int, losses: int, d_query: int, ids: int, coefficients: int, scores: int, d_negatives: int
    ) -> None: ...
    @staticmethod
    def sort_bytes(target: _Target, total: int) -> int: ...
    @staticmethod
    def sort_rows(
        target: _Target, sources: Sequence[tuple[int, int, int]], bound: int, entries: int, other: int, workspace: int,
        workspace_bytes: int
    ) -> None: ...
    @staticmethod
    def update_all_rows(target: _Target, rows: int, dim: int, gradients: int, update: _CudaUpdate) -> None: ...
