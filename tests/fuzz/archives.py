"""Downloaded archives: nothing outside the folder, nothing but files and folders, and all or nothing."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

from codecctl.data.download.extract import unpack
from tests.fuzz.harness import Target

_FILES = {
    "corpus/a.txt": b"speech " * 200, "corpus/wav/b.wav": bytes(range(256)) * 8, "corpus/\u00e9t\u00e9.txt": b"x",
}  # fmt: skip


def _tar(mode: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in _FILES.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("corpus/link.txt")
        link.type, link.linkname = tarfile.LNKTYPE, "corpus/a.txt"
        tar.addfile(link)
    return buffer.getvalue()


def _zip(method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as packed:
        for name, data in _FILES.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def _make_inputs() -> Mapping[str, bytes]:
    tars = {f"a.tar{suffix}": _tar(f"w:{suffix[1:]}") for suffix in ("", ".gz", ".bz2", ".xz")}
    kinds = {"stored": zipfile.ZIP_STORED, "deflated": zipfile.ZIP_DEFLATED, "lzma": zipfile.ZIP_LZMA}
    return tars | {f"{name}.zip": _zip(method) for name, method in kinds.items()}


def _read(path: Path) -> None:
    into = path.parent / "outer" / "corpus"
    into.parent.mkdir(exist_ok=True)
    before = set(path.parent.iterdir())
    try:
        with patch("os.sync"):  # of the whole machine: a hundred times slower than the rest
            unpack(path, into)
        is_checked = not path.name.endswith(".tar")  # an uncompressed tar has checksums of names alone
        for folder, _, files in os.walk(into):
            for name in files:
                file = Path(folder, name)
                assert stat.S_ISREG(file.lstat().st_mode), f"{file} is no plain file"
                assert not is_checked or file.read_bytes() in _FILES.values(), f"{file} has other bytes"
    finally:
        assert set(path.parent.iterdir()) == before, "something was written beside the folder"
        assert {entry.name for entry in into.parent.iterdir()} <= {"corpus"}, "something was left"
        _remove(into.parent)


def _remove(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()


TARGET = Target("archives", _make_inputs, _read)
