"""Checksums while bytes pass by, and what a checksum is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Checksum:
    """A checksum that somebody gave for a file."""

    algorithm: str  # of hashlib, or "git-sha1": of a file as git stores it
    value: str  # lower-case hex
    binding: bool = True  # False: a hint that may be wrong; a difference is told, not refused


class Digests:
    """SHA-256, and the other algorithms asked for, of the bytes that are fed in."""

    def __init__(self, algorithms: Iterable[str], n_bytes: int | None) -> None:
        """`n_bytes` is the file's size: git-sha1 hashes it first."""
        self._hashes: dict[str, Any] = {"sha256": hashlib.sha256()}
        for algorithm in algorithms:
            if algorithm == "git-sha1":
                self._hashes[algorithm] = hashlib.sha1(b"blob %d\0" % (n_bytes or 0), usedforsecurity=False)
            elif algorithm != "sha256":
                self._hashes[algorithm] = hashlib.new(algorithm, usedforsecurity=False)

    def feed(self, data: bytes | memoryview) -> None:
        for hasher in self._hashes.values():
            hasher.update(data)

    def value(self, algorithm: str = "sha256") -> str:
        return str(self._hashes[algorithm].hexdigest())
