"""HTTP as a downloader needs it: redirects that leave the token behind, answers sorted into "again" and "never".

No address is logged or stands in a message with more than its host: what follows may be a key.
"""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httpx2

from codecctl import __version__


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server."""

    attempts: int = 6  # in a row that bring nothing
    first_wait_seconds: float = 1.0  # doubled each time
    longest_wait_seconds: float = 300.0  # a Retry-After beyond it counts as a refusal
    connect_seconds: float = 20.0
    read_seconds: float = 60.0  # without a byte
    sync_seconds: float = 2.0  # between two times that what arrived is brought to the disk


@dataclass(frozen=True)
class Address:
    """Where to ask, and the Authorization header for that host alone. Never printed as it is: see `place`."""

    url: str = field(repr=False)
    authorization: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def place(self) -> str:
        """The address without user, query and fragment, which may be secrets."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{self.host}{parts.path}"


Locate = Callable[[bool], Address]  # True: the last one was refused, get a fresh one


def fixed(address: Address) -> Locate:
    """An address that does not expire."""
    return lambda fresh: address


class BrokenError(Exception):
    """It may work if tried again."""

    def __init__(self, reason: str, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class RefusedError(Exception):
    """This mirror is of no use."""

    def __init__(self, reason: str, *, gate: bool = False) -> None:
        super().__init__(reason)
        self.gate = gate


def open_client(patience: Patience) -> httpx2.Client:
    """A client that follows no redirect by itself and never logs an address: those of a cloud store hold keys."""
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2.Client(
        headers={"User-Agent": f"codecctl/{__version__}"},
        timeout=httpx2.Timeout(patience.read_seconds, connect=patience.connect_seconds),
        follow_redirects=False,
    )


@contextmanager
def send(
    client: httpx2.Client, method: str, address: Address, *, headers: dict[str, str] | None = None
) -> Iterator[httpx2.Response]:
    """One request and its redirects, with the Authorization header for the first host alone."""
    authorization = address.authorization
    try:
        url = httpx2.URL(address.url)
        for _ in range(10):
            own = {"Authorization": authorization} if authorization else {}
            request = client.build_request(method, url, headers={**(headers or {}), **own})
            response = client.send(request, stream=True)
            try:
                target = response.headers.get("Location")
                if method != "GET" or response.status_code not in (301, 302, 303, 307, 308) or target is None:
                    yield response
                    return
                onward = url.join(target)
            finally:
                response.close()
            if url.scheme == "https" and onward.scheme != "https":
                raise RefusedError(f"{address.host}: sends us on to an address that is not encrypted")
            if (onward.scheme, onward.host, onward.port) != (url.scheme, url.host, url.port):
                authorization = None
            url = onward
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError):
        raise RefusedError(f"{address.host}: not an address that can be asked") from None
    except httpx2.HTTPError as error:
        raise BrokenError(reason_of(error)) from None
    raise RefusedError(f"{address.host}: sends us in circles")


def refuse_status(response: httpx2.Response, address: Address) -> None:
    """Raises `BrokenError` or `RefusedError` unless the answer is a file or a part of one."""
    code = response.status_code
    if code in (200, 206):
        return
    said = f"{address.host}: answers {code} {response.reason_phrase}".rstrip()
    if code in (401, 403):
        raise RefusedError(said, gate=True)
    if code in (408, 425, 429) or code >= 500:
        raise BrokenError(f"answers {code}", _retry_after(response))
    raise RefusedError(said)


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, given as a number or as a date."""
    told = response.headers.get("Retry-After", "").strip()
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(told).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def reason_of(error: httpx2.HTTPError) -> str:
    """In our words: the library's may hold the address with its keys."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return "no connection"
    return "silent for too long" if isinstance(error, httpx2.TimeoutException) else "the connection was cut"
