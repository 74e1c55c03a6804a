"""A socket and a server: `kgfast serve`."""

from __future__ import annotations

import socket
from collections.abc import Callable

from kgfast.core.optional import needs
from kgfast.errors import ConfigError
from kgfast.use.trained import TrainedRun

CONNECTIONS = 256  # at once; more are told to come back
KEEP_ALIVE = 5  # seconds that an idle connection stays


def serve(
    run: TrainedRun,
    host: str = "127.0.0.1",
    port: int = 8000,
    say: Callable[[str], None] = print,
    index: bool = False,
) -> None:
    """Answer HTTP requests about a run until interrupted. `port` 0 takes a free one; `say` is told the address; `index`
    answers predictions by the run's index.

    KgfastError where fastapi or uvicorn is not installed, OSError where the port is taken.
    """
    needs("fastapi", "kgfast serve", "serve")
    uvicorn = needs("uvicorn", "kgfast serve", "serve")
    from kgfast.use.server.app import create_app

    app = create_app(run, host, index=index)
    with listen(host, port) as listening:
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE, timeout_graceful_shutdown=KEEP_ALIVE, ws="none",
        )  # fmt: skip
        name = f"[{host}]" if ":" in host else host
        say(f"http://{name}:{listening.getsockname()[1]}")
        uvicorn.Server(settings).run(sockets=[listening])


def listen(host: str, port: int) -> socket.socket:
    if not host:  # which the system takes for every address there is
        raise ConfigError("host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 all who reach it")
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise OSError(error.errno, f"{host}:{port} can't be served at: {error.strerror}") from None
