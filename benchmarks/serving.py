"""Latency of a server under load: `python -m benchmarks.serving RUN`.

Starts `kgfast serve RUN` on a free port of the loopback, holds some connections open for a bounded time, each asking
one prediction after the other, and prints how many requests were answered, how many were not, and their latency.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any


def start(run: str, threads: int | None) -> tuple[subprocess.Popen[str], str]:
    """The server and its address."""
    command = [sys.executable, "-m", "kgfast", "serve", run, "--port", "0"]
    command += [] if threads is None else ["--threads", str(threads)]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    lines = []
    for line in server.stderr:
        lines.append(line)
        if found := re.search(r"http://\S+", line):
            return server, found[0]
    sys.exit(f"the server did not start:\n{''.join(lines)}")


async def connection(
    client: Any, queries: list[dict[str, str]], until: float, seed: int
) -> tuple[list[float], list[str]]:
    """Requests one after the other until a time: (seconds of those that were answered, what others met)."""
    draws, seconds, errors = random.Random(seed), [], []
    while time.perf_counter() < until:
        body = {"queries": [draws.choice(queries)], "k": 10}
        begin = time.perf_counter()
        try:
            response = await client.post("/predict", json=body)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        if response.status_code == 200 and len(response.json()["results"]) == 1:
            seconds.append(time.perf_counter() - begin)
        else:
            errors.append(f"{response.status_code}: {response.text[:200]}")
    return seconds, errors


async def load(address: str, connections: int, duration: float) -> dict[str, Any]:
    import httpx

    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=60) as client:
        names = [one["name"] for one in (await client.get("/entities", params={"q": "", "k": 100})).json()["entities"]]
        relations = [one["name"] for one in (await client.get("/relations")).json()]
        queries = [{"head": name, "relation": relation} for name in names for relation in relations]
        begin = time.perf_counter()
        parts = [connection(client, queries, begin + duration, seed) for seed in range(connections)]
        found = await asyncio.gather(*parts)
        passed = time.perf_counter() - begin
    seconds = sorted(second for part, _ in found for second in part)
    errors = [error for _, part in found for error in part]
    if not seconds:
        sys.exit(f"no request was answered: {errors[:3]}")
    return {
        "connections": connections,
        "seconds": passed,
        "answered": len(seconds),
        "a second": len(seconds) / passed,
        "p50 ms": 1000 * seconds[len(seconds) // 2],
        "p99 ms": 1000 * seconds[min(len(seconds) - 1, len(seconds) * 99 // 100)],
        "slowest ms": 1000 * seconds[-1],
        "errors": len(errors),
        "first errors": errors[:3],
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="folder of a run")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, help="of the server; all cores where absent")
    chosen = parser.parse_args(arguments)
    server, address = start(chosen.run, chosen.threads)
    try:
        found = asyncio.run(load(address, chosen.connections, chosen.seconds))
    finally:
        server.send_signal(signal.SIGINT)
        server.communicate(timeout=60)
    print(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    sys.exit(main()["errors"] > 0)
