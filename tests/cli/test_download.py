"""Output and exit codes of `codecctl download`."""

from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codecctl.cli.download import Bars
from tests.cli.conftest import Finished
from tests.data.server import Fault, FaultyServer, Resource

Command = Callable[..., Finished]
RECIPE = """
name: mine
title: Mine
languages: [te]
hours: 1.5
licence: {{name: House-Rules, url: "https://example.org/rules", consent: {consent}}}
{gate}
source: {{kind: http, addresses: ["{url}/{{name}}"], files: [{{name: a.zip, bytes: {n_bytes}}}]}}
layout: {{audio: "**/*.wav"}}
verified: {{address: V, files: V, bytes: T, licence: V, gate: V, layout: V, hours: U}}
"""
GATE = 'gate: {needs: a key, url: "https://example.org", steps: ["Open https://example.org.", "Put it into {folder}."]}'


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for number in range(3):
            packed.writestr(f"{number}.wav", bytes([number]) * 200_000)
    return buffer.getvalue()


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.files["/a.zip"] = Resource(archive())
        yield running


def recipe(
    folder: Path, server: FaultyServer, *, consent: bool = False, gate: str = "", n_bytes: int = 600_000
) -> Path:
    path = folder / "mine.yaml"
    path.write_text(RECIPE.format(url=server.url, consent=consent, gate=gate, n_bytes=n_bytes))
    return path


def test_list_shows_every_corpus_and_what_is_unverified(codecctl: Command) -> None:
    done = codecctl("download", "--list")
    rows = {line.split()[0]: line for line in done.stdout.decode().splitlines()}
    assert done.code == 0
    assert re.search(r"te +~5\.5 +~1\.0 GB +CC-BY-SA-4\.0", rows["slr66-te"])
    assert re.search(r"en +~100\.6 +6\.4 GB", rows["librispeech-train-clean-100"])
    assert "HF_TOKEN" in rows["kathbath-te"]
    assert "102 languages" in rows["fleurs-CODE"]
    assert "by name" in rows["slr103-hi"]
    assert "not verified" in done.stderr


def test_list_is_filtered_by_language_and_tier(codecctl: Command) -> None:
    done = codecctl("download", "--list", "--language", "te", "--tier", 1)
    names = [line.split()[0] for line in done.stdout.decode().splitlines()[1:]]
    assert {"slr66-te", "fleurs-te_in", "common-voice-te"} <= set(names)
    assert not any(name.startswith("librispeech") for name in names)


def test_dry_run_prints_the_plan_and_sends_no_request(codecctl: Command, server: FaultyServer, tmp_path: Path) -> None:
    root = tmp_path / "raw"
    done = codecctl("download", recipe(tmp_path, server), "--dry-run", "--root", root)
    (row,) = (line for line in done.stdout.decode().splitlines() if line.startswith("mine"))
    assert re.search(rf"mine +{server.host} +~600\.0 kB +~1\.4 MB +House-Rules +new", row)
    assert "enough" in done.stderr
    assert (done.code, server.requests, root.exists()) == (0, [], False)


def test_dry_run_fails_if_the_disk_is_too_small(codecctl: Command, server: FaultyServer, tmp_path: Path) -> None:
    done = codecctl("download", recipe(tmp_path, server, n_bytes=10**18), "--dry-run", "--root", tmp_path)
    assert done.code == 1
    assert "not enough room" in done.stderr


def test_download_prints_a_line_per_corpus(codecctl: Command, server: FaultyServer, tmp_path: Path) -> None:
    path = recipe(tmp_path, server)
    done = codecctl("download", path, "--root", tmp_path)
    assert done.code == 0, done.stderr
    assert done.stdout.decode() == f"{tmp_path / 'mine'}\tdownloaded\t3 files\t600.3 kB\n"
    assert "fetch a.zip" in done.stderr
    again = codecctl("download", path, "--root", tmp_path)
    assert "already there" in again.stdout.decode()


def test_consent_is_given_by_name(codecctl: Command, server: FaultyServer, tmp_path: Path) -> None:
    path = recipe(tmp_path, server, consent=True)
    refused = codecctl("download", path, "--root", tmp_path)
    assert refused.code == 1
    assert "read https://example.org/rules and add --accept-licence House-Rules" in refused.stderr
    assert server.requests == []
    assert codecctl("download", path, "--root", tmp_path, "--accept-licence", "House-Rules").code == 0


def test_gate_prints_numbered_steps(codecctl: Command, server: FaultyServer, tmp_path: Path) -> None:
    server.files["/a.zip"].always = Fault(status=403)
    done = codecctl("download", recipe(tmp_path, server, gate=GATE), "--root", tmp_path)
    assert done.code == 1
    assert "  1. Open https://example.org.\n" in done.stderr
    assert f"  2. Put it into {tmp_path / 'mine'}.\n" in done.stderr
    assert "error: not here yet: mine" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "name what to download"),
        (["slr67-te"], "no corpus 'slr67-te'; did you mean slr66-te"),
        (["--tier", "4"], "'--tier'"),
        (["--language", "tlh"], "no corpus fits"),
        (["vctk@"], "after the @"),
        (["missing.yaml"], "missing.yaml: no such file"),
    ],
)
def test_wrong_use_exits_with_2_and_a_message(codecctl: Command, arguments: list[str], told: str) -> None:
    done = codecctl("download", *arguments)
    assert done.code == 2
    assert told in done.stderr


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_keeps_what_has_arrived(server: FaultyServer, tmp_path: Path) -> None:
    """With the bars on a real terminal: of the file, of all, with speed and time left."""
    server.files["/a.zip"].bytes_per_second = 100_000
    own, other = pty.openpty()
    arguments = ["download", str(recipe(tmp_path, server)), "--root", str(tmp_path)]
    command = [sys.executable, "-c", "from codecctl.cli.main import main; main()", *arguments]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
    process = subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, env=environment, start_new_session=True
    )
    os.close(other)
    shown = read_until(own, "fetch a.zip", seconds=60)
    part = tmp_path / "mine" / "a.zip.part"
    deadline = time.monotonic() + 30
    while not (part.is_file() and part.stat().st_size > 60_000) and time.monotonic() < deadline:
        shown += read_until(own, "", seconds=0.1)
    process.send_signal(signal.SIGINT)
    shown += read_until(own, "resumes from there", seconds=30)
    assert process.wait(30) == 130
    assert re.search(r"fetch a\.zip .*kB", shown)
    assert re.search(r"all .*/s", shown)
    assert "the same command resumes from there" in shown
    server.files["/a.zip"].bytes_per_second = None
    finished = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert finished.returncode == 0, finished.stderr
    assert server.requests[-1].headers["range"] != "bytes=0-"


def read_until(terminal: int, text: str, *, seconds: float) -> str:
    """What a terminal shows until this text comes up, the end, or so many seconds."""
    shown, deadline = "", time.monotonic() + seconds
    os.set_blocking(terminal, False)
    while time.monotonic() < deadline and not (text and text in shown):
        try:
            shown += os.read(terminal, 65536).decode(errors="replace")
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:
            break  # the other end is closed
    return shown


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("codecctl.cli.download.LINE_SECONDS", -1)
    with Bars(3_000_000) as bars:
        bars.begin("[a]\x1b.zip", 0, 2_000_000, verb="fetch")
        bars.advance("[a]\x1b.zip", 1_000_000)
        bars.end("[a]\x1b.zip")
        bars.begin("[a]\x1b.zip", 0, 10, verb="unpack")
        bars.advance("[a]\x1b.zip", 5)
    lines = capfd.readouterr().err.splitlines()
    assert (lines[0], lines[2]) == (r"fetch [a]\x1b.zip (2.0 MB)", r"unpack [a]\x1b.zip (10 B)")
    assert lines[1].startswith("1.0 MB of 3.0 MB")
    assert len(lines) == 3
