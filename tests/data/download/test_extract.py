"""Untrusted archives are unpacked completely or leave nothing."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import random
import stat
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from codecctl.data.download.extract import Limits, unpack
from codecctl.data.download.remote import is_archive, without_suffix
from codecctl.errors import CodecctlError

FILES = {
    "top/a.wav": random.Random(1).randbytes(100_000),
    "top/sub/b.txt": "తెలుగు".encode(),
    "top/sub/empty": b"",
}


def make_tar(path: Path, entries: dict[str, bytes] | list[tarfile.TarInfo], *, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for entry in entries:
            member = entry if isinstance(entry, tarfile.TarInfo) else tarfile.TarInfo(entry)
            data = entries[entry] if isinstance(entries, dict) and isinstance(entry, str) else b""
            member.size = len(data) or member.size
            tar.addfile(member, io.BytesIO(data) if member.isreg() and data else None)
    return path


def make_zip(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries.items():
            packed.writestr(name, data)
    return path


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


@pytest.mark.parametrize("suffix", [".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar", ".zip"])
def test_unpack_restores_every_file(tmp_path: Path, suffix: str) -> None:
    archive = tmp_path / f"a{suffix}"
    modes = {".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".tar": "w"}
    make_zip(archive, FILES) if suffix == ".zip" else make_tar(archive, FILES, mode=modes[suffix])
    seen: list[int] = []
    unpack(archive, tmp_path / "out", advance=seen.append)
    assert tree(tmp_path / "out") == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([archive.name, "out"])
    assert seen == sorted(seen)
    assert is_archive(archive.name)
    assert without_suffix(f"data/{archive.name}") == "data/a"


def test_hard_link_to_an_earlier_file_is_unpacked(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("a")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
        tar.addfile(entry("b", tarfile.LNKTYPE, "a"))
    unpack(archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"a": b"abc", "b": b"abc"}


HOSTILE: dict[str, list[tarfile.TarInfo]] = {
    "absolute path": [entry("/etc/codecctl-was-here")],
    "parent": [entry("a/../../outside")],
    "link out": [entry("link", tarfile.SYMTYPE, "/etc")],
    "link inside": [entry("a"), entry("link", tarfile.SYMTYPE, "a")],
    "write through a link": [entry("link", tarfile.SYMTYPE, ".."), entry("link/outside")],
    "hard link out": [entry("link", tarfile.LNKTYPE, "../outside")],
    "hard link to an absolute path": [entry("link", tarfile.LNKTYPE, "/etc/passwd")],
    "hard link to nothing": [entry("link", tarfile.LNKTYPE, "later")],
    "character device": [entry("null", tarfile.CHRTYPE)],
    "block device": [entry("disk", tarfile.BLKTYPE)],
    "pipe": [entry("pipe", tarfile.FIFOTYPE)],
    "backslash": [entry("..\\outside")],
    "drive": [entry("C:/outside")],
    "line end in a name": [entry("a\nb")],
    "file as a folder": [entry("a"), entry("a/b")],
    "name too long": [entry("n" * 300)],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_tar_is_refused_as_a_whole(tmp_path: Path, case: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "outside").write_text("mine")
    archive = make_tar(tmp_path / "a.tar.gz", [entry("good"), *HOSTILE[case]])
    with pytest.raises(CodecctlError, match="nothing was unpacked"):
        unpack(archive, tmp_path / "inner" / "out")
    assert tree(tmp_path / "inner") == {}
    assert (tmp_path / "outside").read_text() == "mine"


def symlink_entry() -> zipfile.ZipInfo:
    info = zipfile.ZipInfo("link")
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    "name", ["/etc/codecctl-was-here", "../outside", "a/../../outside", "C:\\outside", "..\\outside"]
)
def test_hostile_zip_is_refused_as_a_whole(tmp_path: Path, name: str) -> None:
    archive = make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    with pytest.raises(CodecctlError, match="nothing was unpacked"):
        unpack(archive, tmp_path / "in" / "out")
    assert list((tmp_path / "in").iterdir()) == []
    assert not (tmp_path / "outside").exists()


def test_zip_with_a_link_or_an_encrypted_entry_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(symlink_entry(), "/etc")
    with pytest.raises(CodecctlError, match="symbolic link"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
    data = bytearray(make_zip(tmp_path / "b.zip", {"a": b"1"}).read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1  # the flag of an encrypted entry
    (tmp_path / "b.zip").write_bytes(data)
    with pytest.raises(CodecctlError, match="encrypted"):
        unpack(tmp_path / "b.zip", tmp_path / "out")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_archive_beyond_the_ratio_limit_is_refused(tmp_path: Path, suffix: str) -> None:
    archive, zeros = tmp_path / f"a{suffix}", {"zeros": bytes(30_000_000)}
    make_zip(archive, zeros) if suffix == ".zip" else make_tar(archive, zeros)
    with pytest.raises(CodecctlError, match="bomb"):
        unpack(archive, tmp_path / "out", limits=Limits(ratio=200, slack_bytes=1_000_000))
    assert not (tmp_path / "out").exists()
    unpack(archive, tmp_path / "out", limits=Limits(ratio=200, slack_bytes=30_000_000))


def test_tar_header_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    header = entry("x", tarfile.XHDTYPE)
    header.size = 1 << 30
    with gzip.open(tmp_path / "a.tar.gz", "wb", 1) as packed:
        packed.write(header.tobuf(tarfile.USTAR_FORMAT))
        packed.write(bytes(1 << 24))
    with pytest.raises(CodecctlError, match="beside the files in it: a bomb"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_zip_with_false_sizes_is_refused(tmp_path: Path) -> None:
    data = bytearray(make_zip(tmp_path / "a.zip", {"zeros": bytes(5_000_000)}).read_bytes())
    for header, offset in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        struct.pack_into("<I", data, data.index(header) + offset, 10)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(CodecctlError):
        unpack(tmp_path / "a.zip", tmp_path / "out", limits=Limits(ratio=1, slack_bytes=1000))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sparse_file_counts_with_its_full_size(tmp_path: Path) -> None:
    with open(tmp_path / "holes", "wb") as holes:
        holes.truncate(1 << 33)
    packed = subprocess.run(["tar", "-C", tmp_path, "--sparse", "-czf", tmp_path / "a.tar.gz", "holes"], check=False)
    if packed.returncode:
        pytest.skip("no GNU tar here to make one")
    with pytest.raises(CodecctlError, match="bomb"):
        unpack(tmp_path / "a.tar.gz", tmp_path / "out")


def test_archive_with_too_many_entries_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar.gz", [entry(str(number)) for number in range(30)])
    with pytest.raises(CodecctlError, match="bomb"):
        unpack(archive, tmp_path / "out", limits=Limits(n_entries=20))


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar", ".zip"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.95, 0.999])
def test_truncated_archive_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    archive = tmp_path / f"a{suffix}"
    modes = {".tar.gz": "w:gz", ".tar.bz2": "w:bz2", ".tar": "w"}
    make_zip(archive, FILES) if suffix == ".zip" else make_tar(archive, FILES, mode=modes[suffix])
    data = archive.read_bytes()
    if suffix == ".tar":
        data = data.rstrip(b"\0")  # a tar ends on ten kilobytes of zeros: losing some of them loses nothing
    archive.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CodecctlError, match="damaged"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tar_truncated_between_two_entries_is_refused(tmp_path: Path) -> None:
    archive = make_tar(tmp_path / "a.tar", {"a": b"1" * 512, "b": b"2" * 512}, mode="w")
    archive.write_bytes(archive.read_bytes()[:1024])  # header and body of the first
    with pytest.raises(CodecctlError, match="damaged"):
        unpack(archive, tmp_path / "out")


@pytest.mark.parametrize("packer", [gzip.compress, bz2.compress])
def test_damage_after_the_last_entry_is_detected(tmp_path: Path, packer: Callable[[bytes], bytes]) -> None:
    plain = make_tar(tmp_path / "a.tar", FILES, mode="w").read_bytes()
    data = bytearray(packer(plain))
    data[-6] ^= 1  # in the checksum of the packed stream
    archive = tmp_path / ("a.tar.gz" if packer is gzip.compress else "a.tar.bz2")
    archive.write_bytes(data)
    with pytest.raises(CodecctlError, match="damaged"):
        unpack(archive, tmp_path / "out")


def test_flipped_bit_in_a_zip_is_detected(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "a.zip", FILES)
    data = bytearray(archive.read_bytes())
    data[5000] ^= 1
    archive.write_bytes(data)
    with pytest.raises(CodecctlError, match="damaged"):
        unpack(archive, tmp_path / "out")


def test_old_folder_stays_until_the_new_one_is_complete(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(CodecctlError):
        unpack(make_tar(tmp_path / "bad.tar.gz", HOSTILE["parent"]), tmp_path / "out")
    assert tree(tmp_path / "out") == {"old": b"old"}
    unpack(make_tar(tmp_path / "good.tar.gz", FILES), tmp_path / "out")
    assert tree(tmp_path / "out") == FILES


@pytest.mark.slow
def test_full_disk_leaves_no_partial_folder(tmp_path: Path) -> None:
    make_tar(tmp_path / "a.tar.gz", FILES)
    script = (
        "import resource, sys; from pathlib import Path; from codecctl.data.download.extract import unpack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "try: unpack(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except Exception as error: sys.exit(f'{type(error).__name__}: {error}')\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.tar.gz"), str(tmp_path / "out")]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    assert told.startswith(CodecctlError.__name__)
    assert "the disk is full" in told
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar.gz"]


def test_unpacked_files_are_not_executable_and_only_the_owner_writes_them(tmp_path: Path) -> None:
    member = entry("a")
    member.mode = 0o4777
    unpack(make_tar(tmp_path / "a.tar.gz", [member]), tmp_path / "out")
    assert stat.S_IMODE(os.stat(tmp_path / "out" / "a").st_mode) & 0o6111 == 0
