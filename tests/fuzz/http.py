"""Answers of servers, and what an interrupted download left: a file arrives with the right bytes or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from unittest.mock import patch

from codecctl.data.download.fetch import Fetcher
from codecctl.data.download.remote import Address, Checksum, PermanentError, RemoteFile, TransientError
from codecctl.data.download.sources import BASE_VARIABLE, KEY_VARIABLE, File, MdcSource, Query
from codecctl.data.download.web import RetryPolicy
from tests.fuzz.harness import Target

_DATA = b"RIFF" + bytes(range(256)) * 40
_HALF = 5000
_HASH = hashlib.sha256(_DATA).hexdigest()


class _Server:
    """Sends `answers` in turn to whoever asks, the last one again and again, and hangs up after each."""

    def __init__(self) -> None:
        self.answers: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                try:
                    asked = b""
                    while b"\r\n\r\n" not in asked and (more := connection.recv(65536)):
                        asked += more
                    connection.sendall(self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(65536)
                except OSError:
                    pass  # the client hung up


@cache
def _server(process: int) -> _Server:
    return _Server()


@cache
def _fetcher(process: int) -> Fetcher:
    return Fetcher(policy=RetryPolicy(attempts=2, read_seconds=2), sleep=lambda seconds: None)


def _answer(status: str, body: bytes, *headers: str, length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _make_inputs() -> Mapping[str, bytes]:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (_DATA[:3000], _DATA[3000:])) + b"0\r\n\r\n"
    whole, rest = f"Content-Range: bytes 0-{len(_DATA) - 1}", f"bytes {_HALF}-{len(_DATA) - 1}/{len(_DATA)}"
    session = {"downloadUrl": "https://x/y?z", "sizeBytes": len(_DATA), "checksum": f"sha256:{_HASH}"}
    return {
        "whole.http": _answer("200 OK", _DATA, 'ETag: "a"'),
        "chunked.http": _answer("200 OK", chunks, "Transfer-Encoding: chunked", length=False),
        "open.http": _answer("200 OK", _DATA, "Last-Modified: Fri, 27 Nov 2026 08:00:00 GMT", length=False),
        "moved.http": _answer("302 Found", b"", "Location: /other"),
        "busy.http": _answer("503 Service Unavailable", b"", "Retry-After: Fri, 27 Nov 2026 08:00:00 GMT"),
        "later.http": _answer("429 Too Many Requests", b"", "Retry-After: 3"),
        "odd.http": _answer("206 Partial Content", _DATA, whole),
        "rest.range": _answer("206 Partial Content", _DATA[_HALF:], f"Content-Range: {rest}", 'ETag: "a"'),
        "session.mdc": _answer("201 Created", json.dumps(session).encode(), "Content-Type: application/json"),
        "a.bin.part.json": json.dumps(
            {"place": "PLACE", "etag": '"a"', "last_modified": None, "total": len(_DATA), "n_bytes": _HALF}
        ).encode(),
    }


def _read(path: Path) -> None:
    server = _server(os.getpid())
    server.answers = [path.read_bytes()]
    fetcher = _fetcher(os.getpid())
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        if path.suffix == ".mdc":
            _ask(server, fetcher)
        else:
            _fetch(server, fetcher, Path(folder, "a.bin"), path)


def _ask(server: _Server, fetcher: Fetcher) -> None:
    source = MdcSource(kind="mdc", dataset="x", file=File(name="a.tar.gz", bytes=3))
    with patch.dict(os.environ, {KEY_VARIABLE: "secret", BASE_VARIABLE: server.url}):
        try:
            (file,) = source.list_files(Query(fetcher.client)).files
        except TransientError as error:  # which is tried again
            raise PermanentError(str(error)) from None
    assert file.n_bytes is not None
    assert file.n_bytes >= 0
    assert isinstance(file.addresses[0].host, str)


def _fetch(server: _Server, fetcher: Fetcher, target: Path, path: Path) -> None:
    """Without a published hash only what the answer itself says can be compared."""
    remote = RemoteFile("a.bin", (Address(f"{server.url}/a.bin"),), len(_DATA), checksums=(Checksum("sha256", _HASH),))
    if path.suffix != ".http":  # the first half is there already
        Path(f"{target}.part").write_bytes(_DATA[:_HALF])
        about = path.read_bytes() if path.suffix == ".json" else _make_inputs()["a.bin.part.json"]
        Path(f"{target}.part.json").write_bytes(about.replace(b"PLACE", remote.addresses[0].place.encode()))
        if path.suffix == ".json":
            server.answers = [_make_inputs()["rest.range"], _make_inputs()["whole.http"]]
    fetched = fetcher.fetch(remote, target)
    assert target.read_bytes() == _DATA
    assert (fetched.bytes, fetched.sha256) == (len(_DATA), _HASH)
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]


TARGET = Target("http", _make_inputs, _read)
