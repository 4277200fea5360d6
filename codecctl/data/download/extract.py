"""Unpack untrusted archives: nothing is written outside the folder, only files and folders are made, all or nothing.

Everything goes into a temporary folder beside the target and is renamed when it is on the disk. `tarfile`'s data filter
decides about tar entries; symbolic links, unusual names, encrypted entries and bombs are refused in addition. An
archive with one such entry is refused as a whole.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from codecctl.data.download.disk import free_bytes, is_full
from codecctl.errors import CodecctlError
from codecctl.files import sync

_OPENERS: dict[str, Callable[[IO[bytes]], Any]] = {
    ".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".tar": lambda raw: raw
}  # fmt: skip
_BLOCK_BYTES = 1 << 20
_MOST_HEADER_BYTES = 8 << 20  # of one entry of a tar: `tarfile` keeps them in memory
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)
_IMPOSSIBLE_NAME = (errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ENOTDIR)


@dataclass(frozen=True)
class Limits:
    """An archive that exceeds them is refused as a bomb. Silence compresses well, but speech never 200-fold."""

    ratio: float = 200.0  # unpacked bytes per byte of the archive
    slack_bytes: int = 64 << 20  # allowed beyond that, for small archives
    n_entries: int = 5_000_000


def unpack(
    archive: Path,
    into: Path,
    *,
    advance: Callable[[int], None] = lambda n_bytes: None,
    limits: Limits = Limits(),
) -> None:
    """Unpack into the folder `into`, which is replaced.

    `advance` receives the number of bytes of the archive that have been read. Raises `CodecctlError` for a damaged or
    hostile archive and a full disk; then `into` is unchanged.
    """
    temporary = into.with_name(f".unpacking-{into.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        guard = _Guard(archive, limits)
        unpack_kind = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
        unpack_kind(archive, temporary, guard, advance)
        os.sync()  # once for all files, which must be on the disk before the folder gets its name
        if into.exists():
            shutil.rmtree(into)
        os.rename(temporary, into)
        sync(into.parent)
    except tarfile.FilterError as error:
        raise guard.refusal(error.tarinfo.name, f"is refused ({type(error).__name__})") from None
    except (*_DAMAGE, NotImplementedError, OSError) as error:
        raise _problem(error, archive) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Guard:
    """Names, number and size of an archive's entries."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive, self._n_left = archive, limits.n_entries
        self._bytes_left = int(archive.stat().st_size * limits.ratio) + limits.slack_bytes

    def refusal(self, name: str, why: str) -> CodecctlError:
        return CodecctlError(f"{self._archive}: entry {name[:200]!r} {why}; nothing was unpacked")

    def check(self, name: str, n_bytes: int) -> None:
        """Raises `CodecctlError` for a hostile name, and when the limits are exceeded."""
        self._n_left -= 1
        self._bytes_left -= n_bytes
        if self._n_left < 0 or self._bytes_left < 0:
            raise self.refusal(name, f"exceeds the limits for an archive of this size ({n_bytes:,} bytes): a bomb")
        if not name:
            raise self.refusal(name, "has no name")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise self.refusal(name, "has an absolute path")
        if ".." in name.split("/"):
            raise self.refusal(name, "is outside of the folder")
        if "\\" in name or any(ord(letter) < 32 for letter in name):
            raise self.refusal(name, "contains a backslash or control character")


def _unpack_tar(archive: Path, folder: Path, guard: _Guard, advance: Callable[[int], None]) -> None:
    def check(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        allowed = tarfile.data_filter(member, path)
        guard.check(member.name, member.size if member.isreg() else 0)
        if member.issym():
            raise guard.refusal(member.name, "is a symbolic link")
        if member.islnk() and not (folder / member.linkname).is_file():
            raise guard.refusal(member.name, "is a link to a file that is not in the archive")
        return allowed

    decompress = _OPENERS[Path(archive.name.lower()).suffix]
    with open(archive, "rb") as raw, decompress(raw) as plain:
        end = _End(plain, archive)
        with tarfile.open(fileobj=cast("IO[bytes]", end), mode="r|", errorlevel=2) as tar:
            while (member := tar.next()) is not None:
                end.n_left += member.size
                tar.extract(member, folder, set_attrs=False, filter=check)
                end.n_left = _MOST_HEADER_BYTES
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                advance(raw.tell())
        while end.read(_BLOCK_BYTES):  # the checksum of the compressed stream is at its end
            pass
        if plain is raw and end.tail != bytes(512):
            raise EOFError("it ends in the middle")
        advance(raw.tell())


class _End:
    """Reads through, at most `n_left` bytes, and keeps the last ones in `tail`: a tar ends on zeros.

    An uncompressed tar that was cut between two entries shows it in no other way.
    """

    def __init__(self, source: IO[bytes], archive: Path) -> None:
        self._source, self._archive = source, archive
        self.n_left = _MOST_HEADER_BYTES
        self.tail = b""

    def read(self, n_bytes: int = -1) -> bytes:
        data = self._source.read(n_bytes)
        self.n_left -= len(data)
        if self.n_left < 0:
            raise CodecctlError(
                f"{self._archive}: more than {_MOST_HEADER_BYTES:,} bytes beside the files in it: a bomb; nothing was "
                "unpacked"
            )
        self.tail = (self.tail + data[-512:])[-512:]
        return data


def _unpack_zip(archive: Path, folder: Path, guard: _Guard, advance: Callable[[int], None]) -> None:
    """All entries are checked before the first is written; `zipfile` writes no more of one than its stated size."""
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        for entry in entries:
            guard.check(entry.orig_filename, entry.file_size)
            _check_kind(entry, guard)
        needed, free = sum(entry.file_size for entry in entries), free_bytes(archive.parent)
        if needed > free:
            raise CodecctlError(
                f"{archive}: needs {needed:,} bytes unpacked, {free:,} are free; make room and run the same command "
                "again"
            )
        done = 0
        for entry in entries:
            path = packed.extract(entry, folder)  # checks the CRC
            if not entry.is_dir() and os.path.getsize(path) != entry.file_size:
                raise zipfile.BadZipFile(f"entry {entry.filename[:200]!r} is shorter than stated")
            done += entry.compress_size
            advance(done)


def _check_kind(entry: zipfile.ZipInfo, guard: _Guard) -> None:
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise guard.refusal(entry.orig_filename, "is a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise guard.refusal(entry.orig_filename, "is a device or another special file")
    if entry.flag_bits & 1:
        raise guard.refusal(entry.orig_filename, "is encrypted")


def _problem(error: Exception, archive: Path) -> CodecctlError:
    if isinstance(error, NotImplementedError):
        return CodecctlError(f"{archive}: Python cannot read its compression ({error}); nothing was unpacked")
    if not isinstance(error, OSError) or error.errno is None:  # bz2 raises OSError without errno for a damaged stream
        return CodecctlError(
            f"{archive}: damaged ({error}); nothing was unpacked; remove it and run the same command again"
        )
    if is_full(error):
        return CodecctlError(f"{archive}: the disk is full; make room and run the same command again")
    if error.errno in _IMPOSSIBLE_NAME:
        return CodecctlError(f"{archive}: contains an impossible name ({error.strerror}); nothing was unpacked")
    return CodecctlError(f"{error.filename or archive}: {error.strerror}")
