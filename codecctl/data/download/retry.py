"""How often and after which waits a failed request is repeated."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from codecctl.data.download.remote import PermanentError, TransientError

_T = TypeVar("_T")


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential back-off with jitter, and the timeouts of a request."""

    attempts: int = 6  # failures in a row without progress before giving up
    first_wait_seconds: float = 1.0  # doubled after each failure
    longest_wait_seconds: float = 300.0  # a longer Retry-After counts as a refusal
    connect_seconds: float = 20.0
    read_seconds: float = 60.0  # without a byte

    def call(self, attempt: Callable[[], _T], sleep: Callable[[float], object], *, host: str = "") -> _T:
        """The result of `attempt`, repeated after each `TransientError`. Raises `PermanentError` that names `host`."""
        failures = 0
        while True:
            try:
                return attempt()
            except TransientError as error:
                failures = 1 if error.made_progress else failures + 1
                reason = f"{host}: {error}" if host else str(error)
                if failures >= self.attempts:
                    raise PermanentError(f"{reason}, {failures} times in a row") from None
                if (error.wait_seconds or 0) > self.longest_wait_seconds:
                    raise PermanentError(f"{reason}; Retry-After is {error.wait_seconds:.0f} s") from None
                sleep(self._backoff(failures) if error.wait_seconds is None else error.wait_seconds)

    def _backoff(self, failures: int) -> float:
        return min(self.first_wait_seconds * 2.0 ** (failures - 1), self.longest_wait_seconds) * random.uniform(
            0.75, 1.25
        )
