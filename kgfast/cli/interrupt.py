"""Ctrl-C: one line and exit code 130, within a second even where a kernel is at work that no signal reaches."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from typer.core import TyperGroup

from kgfast.cli.console import errors

PATIENCE = 0.5  # seconds that a command has to end by itself
CODE = 130
CLEAR = "\r\x1b[2K\x1b[?25h"  # what a progress bar would have done: no line, the cursor back


class Commands(TyperGroup):
    """All commands: an interrupt ends in one line."""

    def invoke(self, ctx):
        try:
            with prompt_interrupts():
                return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            errors().print(str(stop) or "interrupted", soft_wrap=True)
            raise typer.Exit(CODE) from None


@contextmanager
def prompt_interrupts() -> Iterator[None]:
    """Ctrl-C ends the process even in the middle of a kernel. Every file is written whole or not at all, so that
    nothing is lost; training, which waits for its step and writes a checkpoint, is ended by a second Ctrl-C.

    Python's own handler waits until the main thread runs Python again, which a kernel over all entities may not do for
    many seconds. A byte arrives in a pipe at once.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    ended = threading.Event()
    threading.Thread(target=watch, args=(reader, ended), daemon=True).start()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(writer)


def watch(reader: int, ended: threading.Event) -> None:
    """End the process where an interrupt did not end the block in time; each signal is a byte of the pipe."""
    interrupts = 0
    while number := os.read(reader, 1):
        if number[0] != signal.SIGINT:
            continue
        interrupts += 1
        usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if (usual or interrupts > 1) and not ended.wait(PATIENCE):
            console = errors()
            if console.is_terminal:
                sys.stderr.write(CLEAR)
            console.print("interrupted")
            os._exit(CODE)
    os.close(reader)
