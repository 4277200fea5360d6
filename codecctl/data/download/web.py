"""HTTP requests of a downloader: redirects that do not pass on the token, and answers sorted into transient failures
and permanent ones. No address is logged or put into a message, except for its host: the rest may contain a
key."""

from __future__ import annotations

import email.utils
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx2

from codecctl import __version__
from codecctl.data.download.remote import Address, PermanentError, TransientError


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter, and the timeouts of a request."""

    attempts: int = 6  # failures in a row without progress before giving up
    first_wait_seconds: float = 1.0  # doubled after each failure
    longest_wait_seconds: float = 300.0  # a longer Retry-After counts as a refusal
    connect_seconds: float = 20.0
    read_seconds: float = 60.0  # without a byte


def open_client(policy: RetryPolicy) -> httpx2.Client:
    """A client that does not follow redirects and does not log addresses: those of a cloud store contain keys."""
    for name in ("httpx2", "httpcore2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return httpx2.Client(
        headers={"User-Agent": f"codecctl/{__version__}"},
        timeout=httpx2.Timeout(policy.read_seconds, connect=policy.connect_seconds),
        follow_redirects=False,
    )


@contextmanager
def send(
    client: httpx2.Client, method: str, address: Address, *, headers: dict[str, str] | None = None
) -> Iterator[httpx2.Response]:
    """One request and its redirects, with the Authorization header for the first host alone.

    Raises `TransientError` where the connection fails and `PermanentError` for a bad address or redirect.
    """
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
                raise PermanentError(f"{address.host}: redirects to an address that is not encrypted")
            if (onward.scheme, onward.host, onward.port) != (url.scheme, url.host, url.port):
                authorization = None
            url = onward
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError):
        raise PermanentError(f"{address.host}: not a valid HTTP address") from None
    except httpx2.HTTPError as error:
        raise TransientError(reason_of(error)) from None
    raise PermanentError(f"{address.host}: too many redirects")


def check_status(response: httpx2.Response, address: Address) -> None:
    """Raises `TransientError` or `PermanentError` unless the answer is a file or a part of one."""
    code = response.status_code
    if code in (200, 206):
        return
    if code in (408, 425, 429) or code >= 500:
        raise TransientError(f"answers {code}", _retry_after(response))
    raise PermanentError(
        f"{address.host}: answers {code} {response.reason_phrase}".rstrip(), is_gate=code in (401, 403)
    )


def reason_of(error: httpx2.HTTPError) -> str:
    """In our words, since the library's may contain the address with its keys."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return "no connection"
    return "no answer in time" if isinstance(error, httpx2.TimeoutException) else "the connection was cut"


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds, stated as a number or as a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
