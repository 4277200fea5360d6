"""Unpack archives that strangers made: nothing leaves the folder, only files and folders are made, all or nothing.

Everything goes into a temporary folder beside the target, which gets its name when the last byte is on the disk. An
archive with one bad entry is refused as a whole: absolute names, `..`, symbolic links, hard links to anything but an
earlier file of the archive, devices, encrypted entries, and bombs.
"""

from __future__ import annotations

import bz2
import contextlib
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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from codecctl.errors import CodecctlError
from codecctl.files import sync

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip")
_BLOCK_BYTES = 1 << 20
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, ValueError)


class ArchiveError(CodecctlError):
    """An archive that is damaged or means harm; nothing of it was kept."""


@dataclass(frozen=True)
class Limits:
    """Beyond these an archive is a bomb. Silence packs well, a million times does nothing that holds speech."""

    ratio: float = 200.0  # bytes out for a byte in
    slack_bytes: int = 64 << 20  # which small archives may exceed it by
    n_entries: int = 5_000_000


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def without_suffix(name: str) -> str:
    """`data/train.tar.gz` -> `data/train`."""
    suffix = next(suffix for suffix in ARCHIVE_SUFFIXES if name.lower().endswith(suffix))
    return name[: -len(suffix)]


def unpack(
    archive: Path,
    into: Path,
    *,
    advance: Callable[[int], None] = lambda n_bytes: None,
    limits: Limits = Limits(),
) -> int:
    """Unpack into the folder `into`, which is replaced; the number of files.

    `advance` is told how many bytes of the archive have been read. Raises `ArchiveError`, or `CodecctlError` for a full
    disk; then `into` is as it was.
    """
    temporary = into.with_name(f".unpacking-{into.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        sink = _Sink(archive, temporary, limits)
        unpack_kind = _unpack_zip if archive.name.lower().endswith(".zip") else _unpack_tar
        unpack_kind(archive, sink, advance)
        os.sync()  # one for all the files: the folder must not get its name before they are on the disk
        if into.exists():
            shutil.rmtree(into)
        os.rename(temporary, into)
        sync(into.parent)
        return sink.n_files
    except _DAMAGE as error:
        raise _damaged(archive, error) from None
    except NotImplementedError as error:
        raise ArchiveError(
            f"{archive}: packed in a way that Python cannot read ({error}); nothing was unpacked"
        ) from None
    except OSError as error:
        raise _disk_error(error, archive) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class _Sink:
    """The folder that files are written to, and the watch over what an archive may do."""

    def __init__(self, archive: Path, folder: Path, limits: Limits) -> None:
        self.n_files = 0
        self.folder = folder
        self._archive, self._limits = archive, limits
        self._n_entries = 0
        self._left = int(archive.stat().st_size * limits.ratio) + limits.slack_bytes

    def refuse(self, name: str, why: str) -> ArchiveError:
        return ArchiveError(f"{self._archive}: entry {name[:200]!r} {why}; nothing was unpacked")

    def place(self, name: str, *, n_bytes: int = 0) -> Path:
        """Where an entry of this name goes. Raises `ArchiveError` if that, or its size, is none of its business."""
        self._n_entries += 1
        if self._n_entries > self._limits.n_entries or n_bytes > self._left:
            raise self.refuse(name, f"makes it a bomb ({self._n_entries} entries, {n_bytes} bytes more)")
        parts = name.rstrip("/").split("/")
        if name.startswith("/") or re.match(r"[A-Za-z]:", name):
            raise self.refuse(name, "has an absolute path")
        if ".." in parts:
            raise self.refuse(name, "leads out of the folder")
        if "\\" in name or any(ord(letter) < 32 for letter in name):
            raise self.refuse(name, "has a name that no honest file has")
        return self.folder.joinpath(*(part for part in parts if part not in ("", ".")))

    def write(self, name: str, path: Path, source: IO[bytes]) -> None:
        """Copy a file's bytes, counting: what an entry says of its size need not be true."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            while block := source.read(_BLOCK_BYTES):
                self._left -= len(block)
                if self._left < 0:
                    raise self.refuse(name, "makes it a bomb")
                file.write(block)
        self.n_files += 1


def _unpack_tar(archive: Path, sink: _Sink, advance: Callable[[int], None]) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise CodecctlError("this Python cannot unpack tar archives safely; use Python 3.11.4 or newer")
    with open(archive, "rb") as raw, _decompress(archive, raw) as plain:
        end = _End(plain)
        with tarfile.open(fileobj=cast("IO[bytes]", end), mode="r|") as tar:
            while (member := tar.next()) is not None:
                _unpack_member(tar, member, sink)
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers them all
                advance(raw.tell())
        while end.read(_BLOCK_BYTES):  # to the last byte: only there is the checksum of the packed stream
            pass
        if plain is raw and not end.is_clean:
            raise EOFError("it ends in the middle")
        advance(raw.tell())


def _unpack_member(tar: tarfile.TarFile, member: tarfile.TarInfo, sink: _Sink) -> None:
    name = member.name
    path = sink.place(name, n_bytes=member.size if member.isreg() else 0)
    if member.issym():
        raise sink.refuse(name, "is a symbolic link")
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
    elif member.islnk():
        linked = sink.place(member.linkname)
        if not linked.is_file():
            raise sink.refuse(name, "is a link to something that is not in the archive")
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(linked, path)
    elif member.isreg():
        tarfile.data_filter(member, str(sink.folder))  # Python's own check, a second pair of eyes
        source = tar.extractfile(member)
        assert source is not None  # of a regular file
        sink.write(name, path, source)
    else:
        raise sink.refuse(name, "is a device or something else that holds no data")


@contextlib.contextmanager
def _decompress(archive: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    name = archive.name.lower()
    if name.endswith((".gz", ".tgz")):
        with gzip.open(raw, "rb") as plain:
            yield cast("IO[bytes]", plain)
    elif name.endswith(".bz2"):
        with bz2.open(raw, "rb") as plain:
            yield cast("IO[bytes]", plain)
    elif name.endswith(".xz"):
        with lzma.open(raw, "rb") as plain:
            yield cast("IO[bytes]", plain)
    else:
        yield raw


class _End:
    """Reads through, and remembers whether the stream ended as a tar must: on zeros.

    One that was cut between two entries does not, and where nothing is packed there is no other sign of it.
    """

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._tail = b""

    def read(self, n_bytes: int = -1) -> bytes:
        data = self._source.read(n_bytes)
        self._tail = (self._tail + data[-512:])[-512:]
        return data

    @property
    def is_clean(self) -> bool:
        return self._tail == bytes(512)


def _unpack_zip(archive: Path, sink: _Sink, advance: Callable[[int], None]) -> None:
    with zipfile.ZipFile(archive) as packed:
        entries = packed.infolist()
        total = sum(entry.file_size for entry in entries)
        _check_room(sink, archive, total)
        done = 0
        for entry in entries:
            _unpack_entry(packed, entry, sink)
            done += entry.compress_size
            advance(done)


def _unpack_entry(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, sink: _Sink) -> None:
    name = entry.orig_filename
    path = sink.place(name, n_bytes=entry.file_size)
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind == stat.S_IFLNK:
        raise sink.refuse(name, "is a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise sink.refuse(name, "is a device or something else that holds no data")
    if entry.is_dir():
        path.mkdir(parents=True, exist_ok=True)
        return
    if entry.flag_bits & 1:
        raise sink.refuse(name, "is encrypted")
    with packed.open(entry) as source:  # checks the CRC at its end
        sink.write(name, path, source)


def _check_room(sink: _Sink, archive: Path, n_bytes: int) -> None:
    """A zip says beforehand what it will take: refused if that is a bomb or does not fit."""
    sink.place("all of it", n_bytes=n_bytes)
    free = shutil.disk_usage(archive.parent).free
    if n_bytes > free:
        raise CodecctlError(
            f"{archive}: needs {n_bytes:,} bytes unpacked, {free:,} are free; make room and run the same command again"
        )


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    return ArchiveError(f"{archive}: damaged ({error}); remove it and run the same command again")


def _disk_error(error: OSError, archive: Path) -> CodecctlError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return CodecctlError(f"{archive}: the disk is full; make room and run the same command again")
    if error.errno in (errno.ENAMETOOLONG, errno.EEXIST, errno.EISDIR, errno.ENOTDIR):
        return ArchiveError(f"{archive}: holds a name that cannot be ({error.strerror}); nothing was unpacked")
    if error.errno is None:  # not the system's: bz2 says so of a damaged stream
        return _damaged(archive, error)
    return CodecctlError(f"{error.filename or archive}: {error.strerror}")
