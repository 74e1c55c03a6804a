"""Concurrent requests in one fused call: those that come within two milliseconds, or while a call is running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

MOST = 64  # items of a call
WAIT = 0.002  # seconds that the first of them waits for others
ROOM = 4096  # items that may wait; more are refused


class Busy(Exception):
    """More waits already than a queue has room for."""


class Batcher:
    """Answers items by `call`, a function from a list of them to a list of answers, run by the executor.

    `work` must be running. An error of a call is that of all its items: what can be wrong with one is checked before.
    """

    def __init__(self, call: Callable[[list[Any]], list[Any]], executor: Executor):
        self.call, self.executor = call, executor
        self.waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self.wake = asyncio.Event()
        self.calls = self.items = 0

    async def answers(self, items: list[Any]) -> list[Any]:
        """The answers to all items; Busy where there is no room for them."""
        if len(self.waiting) + len(items) > ROOM:
            raise Busy
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self.waiting += zip(items, futures, strict=True)
        self.wake.set()
        try:
            return await asyncio.gather(*futures)
        finally:  # who gave up has no use for the others
            for future in futures:
                future.cancel()

    async def work(self) -> None:
        """Call after call, until cancelled."""
        while True:
            await self.wake.wait()
            if len(self.waiting) < MOST:
                await asyncio.sleep(WAIT)
            batch, self.waiting = self.waiting[:MOST], self.waiting[MOST:]
            if not self.waiting:
                self.wake.clear()
            batch = [(item, future) for item, future in batch if not future.done()]
            if batch:
                await self.answer(batch)

    async def answer(self, batch: list[tuple[Any, asyncio.Future[Any]]]) -> None:
        self.calls, self.items = self.calls + 1, self.items + len(batch)
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self.executor, self.call, [item for item, _ in batch])
        except Exception as error:  # the requests tell it; the next call may do better
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(answer)
