"""Around every request: a body of bounded size that comes in bounded time; around every response: its headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HEADERS = [
    # only files of the page itself run, and they speak to this server alone
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
]


class Refused(Exception):
    def __init__(self, status: int, detail: str):
        self.status, self.detail = status, detail


class Guard:
    """ASGI around `app`: 413 for a body of more than `most_bytes`, 408 for one that takes longer than `seconds`."""

    def __init__(self, app: Any, most_bytes: int, seconds: float):
        self.app, self.most_bytes, self.seconds = app, most_bytes, seconds

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        try:
            body = await asyncio.wait_for(self.body(scope, receive), self.seconds)
        except asyncio.TimeoutError:
            return await refuse(with_headers, 408, f"the body took longer than {self.seconds:g} s")
        except Refused as refused:
            return await refuse(with_headers, refused.status, refused.detail)
        if body is None:
            return None
        given = False

        async def replayed() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        return await self.app(scope, replayed, with_headers)

    async def body(self, scope: Message, receive: Receive) -> bytes | None:
        """The whole body; None where the other end has gone."""
        told = f"the body has more than {self.most_bytes:,} bytes"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self.most_bytes:
            raise Refused(413, told)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size > self.most_bytes:
                raise Refused(413, told)
            parts.append(part)
        return b"".join(parts)


async def refuse(send: Send, status: int, detail: str) -> None:
    content = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": content})
