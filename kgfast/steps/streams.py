"""Steps on several streams: memory that a step keeps is used by one stream after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class StreamOrder:
    """Lets the stream that is current now wait for the one that was when `begin` was last called.

    What is kept belongs, for torch's allocator, to the stream that it was made on: it is told of the other, or memory
    that is given back would be handed out while that one still reads it.
    """

    def __init__(self, device: torch.device, kept: Callable[[], Iterable[Tensor]]):
        self.device, self.kept = device, kept
        self.last: torch.cuda.Stream | None = None

    def begin(self) -> None:
        """Before work on the current stream."""
        if self.device.type != "cuda":
            return
        now = torch.cuda.current_stream(self.device)
        if self.last is not None and self.last != now:
            now.wait_stream(self.last)
            for tensor in self.kept():
                tensor.record_stream(now)
        self.last = now
