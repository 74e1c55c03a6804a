"""Ranks of an evaluation that was stopped: the next one of the same tables, triples and settings goes on from them."""

from __future__ import annotations

import hashlib
import io
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgfast.core.files import open_plain, plain_folder, write_whole

SECONDS = 20.0  # of ranking between two writes; a shorter evaluation leaves nothing
SIDES = ("tail", "head")


class KeptRanks:
    """Ranks so far in RUN/evaluation/, a file an evaluation, NaN where a triple is still to come.

    What an evaluation is of is a hash: tables, triples, filter and settings. A file that is damaged, or of another
    evaluation, counts as none.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self.path: Path | None = None  # of the evaluation at work, once it is known
        self.paths: list[Path] = []  # of the evaluations so far

    def begin(self, model: Any, fingerprint: str, triples: Tensor, **settings: Any) -> tuple[dict[str, Tensor], int]:
        """({side: ranks [M]}, how many triples are done) of an evaluation."""
        self.written, self.path = time.monotonic(), None
        self.of = model, fingerprint, triples, settings
        ranks = {side: torch.full((len(triples),), torch.nan, dtype=torch.float64) for side in SIDES}
        if self.folder.is_dir() and any(self.folder.iterdir()):  # or there is no need for a hash
            found = self.read(len(triples))
            if found is not None:
                ranks = dict(zip(SIDES, torch.from_numpy(found), strict=True))
        done = ~(ranks["tail"].isnan() | ranks["head"].isnan())
        return ranks, int(done.long().cumprod(0).sum())

    def read(self, count: int) -> np.ndarray | None:
        try:
            with open_plain(self.place()) as file:
                if os.fstat(file.fileno()).st_size > 16 * count + 4096:
                    return None
                found = np.load(io.BytesIO(file.read()), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.shape == (2, count) and found.dtype == np.float64 else None

    def keep(self, ranks: dict[str, Tensor]) -> None:
        """Writes them where the last time is long ago."""
        if time.monotonic() - self.written < SECONDS:
            return
        self.folder.mkdir(exist_ok=True)
        plain_folder(self.folder)
        content = io.BytesIO()
        np.save(content, np.stack([ranks[side].numpy() for side in SIDES]), allow_pickle=False)
        write_whole(self.place(), content.getvalue())
        self.written = time.monotonic()

    def place(self) -> Path:
        """The file of the evaluation that was begun."""
        if self.path is None:
            model, fingerprint, triples, settings = self.of
            hashed = hashlib.sha256(
                repr((fingerprint, model.score, model.reciprocal, sorted(settings.items()))).encode()
            )
            for tensor in (model.entities, model.relations, triples):
                hashed.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            self.path = self.folder / f"ranks-{hashed.hexdigest()[:24]}.npy"
            self.paths.append(self.path)
        return self.path

    def remove(self) -> None:
        """What was kept of these evaluations, when their results are written."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        if self.paths and self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()
