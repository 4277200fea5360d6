"""Free space on the disk, and what to say when there is none."""

from __future__ import annotations

import errno
import shutil
import threading
from pathlib import Path

from codecctl.errors import CodecctlError

_SPARE_BYTES = 64 << 20  # never filled
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int:
    """Of the disk that `folder` is or will be on."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())
    return shutil.disk_usage(there).free


def is_full(error: OSError) -> bool:
    """Whether the disk, a quota or a limit on file sizes is exhausted."""
    return error.errno in _FULL


class Reservations:
    """Free bytes of the disk less those that the files being fetched still need."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._needed: dict[str, int] = {}

    def claim(self, name: str, n_bytes: int, folder: Path) -> None:
        """Before the first byte. Raises `CodecctlError` if it does not fit in addition to the others."""
        with self._lock:
            others = sum(needed for other, needed in self._needed.items() if other != name)
            free = free_bytes(folder)
            if n_bytes + others + _SPARE_BYTES > free:
                raise CodecctlError(
                    f"{folder}: {name} needs {n_bytes + others:,} bytes more and {free:,} are free; "
                    "make room and run the same command again"
                )
            self._needed[name] = n_bytes

    def use(self, name: str, n_bytes: int) -> None:
        with self._lock:
            self._needed[name] = max(0, self._needed.get(name, 0) - n_bytes)

    def release(self, name: str) -> None:
        with self._lock:
            self._needed.pop(name, None)
