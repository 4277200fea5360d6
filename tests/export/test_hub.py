"""Publishing to the hub, and loading from it, with a server on this machine in its place."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from torch import Tensor

from codecctl import Codec
from codecctl.errors import CodecctlError
from codecctl.inference.load import save_codec
from tests.conftest import TINY, lively

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """The parts of the hub's API that uploads and downloads of one model use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.status = 200  # of everything that is asked

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if "/resolve/" not in self.path or name not in self.server.files:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            self._answer(200, self.server.files[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/api/repos/create":
            answer: dict[str, Any] = {"url": f"{self.server.address}/someone/voice"}
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/validate-yaml" in self.path:
            answer = {"errors": [], "warnings": []}
        else:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitUrl": f"{self.server.address}/someone/voice/commit/{COMMIT}", "commitOid": COMMIT}
        self._answer(self.server.status, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server
        server.shutdown()


@pytest.fixture
def codec(tmp_path: Path) -> Codec:
    save_codec(lively(TINY), tmp_path / "codec.pt")
    return Codec.load(tmp_path / "codec.pt", "cpu")


def test_what_was_pushed_is_loaded(hub: Hub, codec: Codec, speech: Tensor) -> None:
    assert codec.push_to_hub("someone/voice") == f"{hub.address}/someone/voice"
    assert {"config.json", "model.safetensors", "README.md", "modeling_codecctl.py"} < hub.files.keys()
    assert b'from_pretrained("someone/voice"' in hub.files["README.md"]
    loaded = Codec.from_pretrained("someone/voice", "cpu")
    assert loaded.fingerprint == codec.fingerprint
    assert torch.equal(loaded.encode(speech[..., :4000]), codec.encode(speech[..., :4000]))


def test_what_the_hub_refuses_is_one_line(hub: Hub, codec: Codec) -> None:
    hub.status = 403
    with pytest.raises(CodecctlError, match=r"^someone/voice on the Hugging Face hub: .*403.*; see `hf auth login`$"):
        codec.push_to_hub("someone/voice")


def test_a_hub_out_of_reach_is_one_line(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    with Hub() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.address)
    with pytest.raises(CodecctlError, match=r"^someone/voice on the Hugging Face hub: the hub cannot be reached$"):
        codec.push_to_hub("someone/voice")


def test_a_codec_that_is_in_no_file_is_not_pushed() -> None:
    with pytest.raises(CodecctlError, match="was not loaded from a file"):
        Codec(TINY).push_to_hub("someone/voice")
