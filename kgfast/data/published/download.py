"""One file from an address. The standard library does it: pooch would bring three packages, and neither unpacks within
limits nor puts a folder in place whole. urllib goes by HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from kgfast import __version__
from kgfast.errors import DataError

TRIES = 3
PAUSE = 2.0  # seconds before the second try; twice as long before each further one
TIMEOUT = 30.0  # seconds without a byte
BLOCK = 1 << 18
AGENT = f"kgfast/{__version__}"
OF_THE_NETWORK = (http.client.HTTPException, urllib.error.URLError, ssl.SSLError, ConnectionError, TimeoutError)
FINAL = (socket.gaierror, ssl.SSLCertVerificationError, FileNotFoundError, ConnectionRefusedError, str)
HINT = "HTTPS_PROXY names a proxy, --mirror (KGFAST_MIRROR) an address or folder that has the files too"

Advance = Callable[[int, int], None]
Say = Callable[[str], None]


def download(address: str, path: Path, most: int, advance: Advance, say: Say) -> None:
    """Write what is at the address to `path`; DataError where that fails three times, is refused, or has more bytes
    than `most`."""
    for turn in range(1, TRIES + 1):
        try:
            return copy(address, path, most, advance)
        except (OSError, http.client.HTTPException) as error:
            if not isinstance(error, OF_THE_NETWORK):
                raise  # of the disk
            if turn == TRIES or is_final(error):
                raise DataError(f"{address} can't be fetched{tried(turn)}: {reason(error)}. {HINT}") from None
            say(f"{address}: {reason(error)}; trying again ({turn + 1} of {TRIES})")
            time.sleep(PAUSE * 2 ** (turn - 1))


class Redirects(urllib.request.HTTPRedirectHandler):
    """What was asked for over https is not taken from an address without it."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it leads to {newurl}, which isn't https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def copy(address: str, path: Path, most: int, advance: Advance) -> None:
    request = urllib.request.Request(address, headers={"User-Agent": AGENT})
    opener = urllib.request.build_opener(Redirects)  # not urlopen, which keeps the proxies of its first call
    with opener.open(request, timeout=TIMEOUT) as answer, path.open("wb") as file:
        told, done = answer.headers.get("Content-Length"), 0
        total = int(told) if told and told.isdecimal() else None
        while block := answer.read(BLOCK):
            done += len(block)
            if done > most:
                raise DataError(f"{address} has more than the {most:,} bytes that are expected at most")
            file.write(block)
            advance(done, max(total or 0, done))
    if total is not None and done < total:
        raise ConnectionError(f"it ended after {done:,} of {total:,} bytes")


def is_final(error: Exception) -> bool:
    """Whether another try would be the same: there is no such thing, it is refused, or there is no network."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code < 500 and error.code not in (408, 429)
    cause = getattr(error, "reason", None)
    return isinstance(cause, FINAL)


def reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, socket.gaierror):
        return f"no network, or no such host ({cause.strerror})"
    return str(cause) or type(cause).__name__


def tried(turn: int) -> str:
    return f" (tried {turn} times)" if turn > 1 else ""
