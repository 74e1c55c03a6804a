"""An index of the entities' rows, by faiss: the best answers without a look at every row, if not always all of them.

RUN/index/entities.faiss is the index, RUN/index/index.json says of what, and how good it is; `kgfast.use.indexing`
makes it.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from kgfast import functional
from kgfast.core.files import plain_folder, read_plain, replacing, write_whole
from kgfast.core.known import KnownTriples
from kgfast.core.optional import needs
from kgfast.errors import CheckpointError
from kgfast.nn import KGEModel
from kgfast.reference.scores import make_queries
from kgfast.registry import Side
from kgfast.run.folder import folder_inside
from kgfast.run.manifest import File, read_manifest
from kgfast.run.storage import describe

FOLDER, ROWS, ABOUT = "index", "entities.faiss", "index.json"
MOST_BYTES = 1 << 20  # of index.json
FETCHED_MOST = 2048  # rows for a query, answers that are left out among them; more are found exactly


class About(BaseModel):
    """index.json: what the index was made from, how it is searched, and how good it was when it was made."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: str  # hnsw or ivf
    score: str
    tables: dict[str, str]  # CRC-32 of the checkpoint's files
    effort: int = Field(ge=1)
    measured: dict[str, float]
    file: File


class EntityIndex:
    """Answers as `KGEModel.topk` does, from an index.

    What it finds is scored anew, so scores are exact; what is missing is the index's. Exactly found are queries that
    leave out thousands of answers, and those for which the index finds fewer than k.
    """

    def __init__(self, model: KGEModel, rows: Any, effort: int):
        """effort: how many candidates of HNSW, or lists of IVF, a search looks at."""
        self.model, self.rows, self.effort = model, rows, effort

    @property
    def kind(self) -> str:
        return "hnsw" if hasattr(self.rows, "hnsw") else "ivf"

    @torch.no_grad()
    def topk(self, triples: Tensor, k: int, side: str, exclude: KnownTriples | None = None) -> tuple[Tensor, Tensor]:
        """(scores, ids) [B, k] of the best candidates that it finds.

        Args:
            triples: ids [B, 3]; the column that is asked for must be ids too.
            k: how many; where fewer remain, score -inf and id -1.
            side: which column is asked for, "tail" or "head".
            exclude: triples whose answers are left out; None: none are.
        """
        model = self.model
        triples = model.check(triples)
        scores = torch.full((len(triples), k), -torch.inf, dtype=model.entities.dtype, device=triples.device)
        ids = torch.full((len(triples), k), -1, device=triples.device)
        starts, ends = (triples.new_zeros(len(triples)),) * 2 if exclude is None else exclude.lookup(triples, side)
        fetched = ends - starts + k
        easy = (fetched <= min(FETCHED_MOST, model.num_entities)).nonzero()[:, 0]
        if len(easy):
            count = int(fetched[easy].max())
            scores[easy], ids[easy] = self.search(triples[easy], k, side, count, exclude)
        short = (ids[:, -1] < 0).nonzero()[:, 0]
        if len(short):
            scores[short], ids[short] = model.topk(triples[short], k, side, exclude)
        return scores, ids

    def search(
        self, triples: Tensor, k: int, side: str, count: int, exclude: KnownTriples | None
    ) -> tuple[Tensor, Tensor]:
        """The best k among `count` rows of the index for each query, those that are left out taken away."""
        model = self.model
        asked, asked_side = model.with_inverses(triples, Side.of(side, "side"))
        query = make_queries(model.entities, model.relations, asked, model.score, asked_side.word)
        found = torch.from_numpy(self.nearest(query.float().cpu().contiguous().numpy(), count)).to(triples.device)
        found = found.sort(dim=1).values  # so that ties are by lower id
        scores = functional.score_candidates(
            model.entities, model.relations, asked, found.clamp(min=0), score=model.score, side=asked_side.word
        )
        scores = scores.masked_fill((found < 0) | left_out(triples, found, side, exclude), -torch.inf)
        order = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
        scores, found = scores.gather(1, order), found.gather(1, order)
        return scores, found.masked_fill(scores == -torch.inf, -1)

    def nearest(self, queries: Any, count: int) -> Any:
        """Ids [B, count] of the rows that faiss finds, -1 where it finds no more."""
        faiss = needs("faiss", "an index", "faiss")
        faiss.omp_set_num_threads(torch.get_num_threads())
        if self.kind == "hnsw":
            options = faiss.SearchParametersHNSW(efSearch=max(self.effort, count))
        else:
            options = faiss.SearchParametersIVF(nprobe=self.effort)
        return self.rows.search(queries, count, params=options)[1]


def left_out(triples: Tensor, found: Tensor, side: str, exclude: KnownTriples | None) -> Tensor:
    """bool [B, n]: which of the ids found are answers to leave out."""
    if exclude is None:
        return torch.zeros_like(found, dtype=torch.bool)
    starts, ends = exclude.lookup(triples, side)
    counts = ends - starts
    query = torch.repeat_interleave(torch.arange(len(triples), device=found.device), counts)
    first = torch.repeat_interleave(starts - (counts.cumsum(0) - counts), counts)
    answers = exclude.ids(side)[first + torch.arange(len(query), device=found.device)]
    rows = torch.arange(len(triples), device=found.device)[:, None]
    return torch.isin(rows * exclude.num_entities + found, query * exclude.num_entities + answers)


# The files


def tables_of(run: str | os.PathLike) -> dict[str, str]:
    """{file: CRC-32} of the checkpoint's files that the entities' rows come from."""
    return {name: entry["crc32"] for name, entry in read_manifest(run)["files"].items() if name != "optimizer"}


def write(index: EntityIndex, measured: dict[str, float], run: str | os.PathLike) -> Path:
    """RUN/index/, in place of what was there; `measured`: what was found when it was made."""
    faiss, folder = needs("faiss", "an index", "faiss"), folder_inside(Path(run), FOLDER)
    with replacing(folder / ROWS, durable=True) as temporary:
        faiss.write_index(index.rows, str(temporary))
    about = About(
        kind=index.kind, score=index.model.score, tables=tables_of(run), effort=index.effort, measured=measured,
        file=File(**describe(folder / ROWS)),
    )  # fmt: skip
    write_whole(folder / ABOUT, (json.dumps(about.model_dump(), indent=1) + "\n").encode())
    return folder


def read(run: str | os.PathLike, model: KGEModel) -> EntityIndex:
    """The index of a run, for these tables; CheckpointError where there is none, or it is damaged or of others."""
    faiss, folder = needs("faiss", "an index", "faiss"), Path(run) / FOLDER
    again = f"`kgfast index {run}` makes it"
    if not os.path.lexists(folder / ABOUT):
        raise CheckpointError(f"{run} has no index: {again}")
    try:
        about = About.model_validate_json(read_plain(plain_folder(folder) / ABOUT, MOST_BYTES))
        written = describe(folder / ROWS)
    except (OSError, ValidationError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}): {again} anew") from error
    if written != about.file.model_dump():
        raise CheckpointError(f"{folder / ROWS} is damaged, it isn't the file that was written: {again} anew")
    if about.tables != tables_of(run):
        raise CheckpointError(f"{folder} was made from other tables than the run has now: {again} anew")
    rows = faiss.read_index(str(folder / ROWS))
    if (rows.ntotal, rows.d) != model.entities.shape:
        raise CheckpointError(f"{folder / ROWS} is damaged, it is no index of the entities: {again} anew")
    return EntityIndex(model, rows, about.effort)
