"""One file from a server with faults of every kind: it is complete, or does not exist."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import httpx2
import pytest

from codecctl.data.download.fetch import Fetcher
from codecctl.data.download.remote import Address, Checksum, FetchedFile, PermanentError, RemoteFile, Stopped
from codecctl.data.download.web import RetryPolicy, send
from codecctl.errors import CodecctlError
from codecctl.parsing import read_json
from tests.data.server import Fault, FaultyServer, Resource, tls_context

DATA = random.Random(0).randbytes(300_000)
POLICY = RetryPolicy(attempts=4, longest_wait_seconds=120, connect_seconds=5, read_seconds=5)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        running.files["/a.bin"] = Resource(DATA)
        yield running


@pytest.fixture
def other() -> Iterator[FaultyServer]:
    """Another host."""
    with FaultyServer("127.0.0.2") as running:
        yield running


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the fetcher would have waited before each retry."""
    return []


@pytest.fixture
def fetcher(waits: list[float]) -> Iterator[Fetcher]:
    fetcher = Fetcher(policy=POLICY, sleep=waits.append)
    yield fetcher
    fetcher.close()


def remote(*urls: str, name: str = "a.bin", data: bytes | None = None, token: str | None = None) -> RemoteFile:
    """A file at these mirrors; with `data` its size and hash are published."""
    checksums = (Checksum("sha256", hashlib.sha256(data).hexdigest()),) if data is not None else ()
    addresses = tuple(Address(url, token) for url in urls)
    return RemoteFile(name, addresses, n_bytes=len(data) if data is not None else None, checksums=checksums)


def leave_part(server: FaultyServer, target: Path, n_bytes: int) -> None:
    """A download that broke off after so many bytes."""
    resource = server.files["/a.bin"]
    resource.always = Fault(cut_after=n_bytes)
    hasty = Fetcher(policy=RetryPolicy(attempts=1))
    with pytest.raises(PermanentError):
        hasty.fetch(remote(server.url + "/a.bin"), target)
    hasty.close()
    resource.always = None
    server.requests.clear()


def test_fetch_leaves_only_the_complete_file(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    fetched = fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    digest = hashlib.sha256(DATA).hexdigest()
    assert fetched == FetchedFile(name="a.bin", bytes=len(DATA), sha256=digest, host=server.host)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.bin": DATA}


@pytest.mark.parametrize("cut", [0, 1, 4096, 65536, 150_001, len(DATA) - 1])
def test_fetch_resumes_at_the_byte_where_the_connection_was_cut(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path, cut: int
) -> None:
    server.files["/a.bin"].faults = [Fault(cut_after=cut)]
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert server.ranges("/a.bin") == [None, f"bytes={cut}-" if cut else None]


def test_fetch_continues_after_many_cuts_while_bytes_arrive(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.bin"].always = Fault(cut_after=20_000)
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.requests) == 15


def test_cut_chunked_answer_is_not_taken_as_complete(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"] = Resource(DATA, chunked=True, faults=[Fault(cut_after=100_000)])
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_next_process_resumes_with_if_range(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    sent = server.requests[0].headers
    assert (sent["range"], sent["if-range"], sent["accept-encoding"]) == ("bytes=100000-", '"v1"', "identity")


def test_fetch_restarts_when_the_server_ignores_range(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    server.files["/a.bin"].always = Fault(ignore_range=True)
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.requests) == 1  # the answer to the range is used, not asked for twice


@pytest.mark.parametrize("ignores_if_range", [False, True])
def test_file_that_changed_on_the_server_is_fetched_from_the_start(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path, ignores_if_range: bool
) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    new = DATA[::-1]
    fault = Fault(ignore_if_range=ignores_if_range)
    server.files["/a.bin"] = Resource(new, etag='"v2"', always=fault)
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == new


def test_weak_etag_is_not_used_to_resume(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"].etag = 'W/"v1"'
    leave_part(server, tmp_path / "a.bin", 100_000)
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert server.ranges("/a.bin") == [None]
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize(
    "fault",
    [
        Fault(shift=7),
        Fault(headers={"Content-Range": "bytes 100000-299999/300001"}),
        Fault(headers={"Content-Range": "bytes 0-299999/300000"}),
        Fault(headers={"Content-Range": ""}),
        Fault(headers={"Content-Range": "pages 1-2/3"}),
    ],
)
def test_206_about_another_file_is_not_appended(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path, fault: Fault
) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    server.files["/a.bin"].faults = [fault]
    try:
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    except PermanentError:
        assert not (tmp_path / "a.bin").exists()
    else:
        assert (tmp_path / "a.bin").read_bytes() == DATA


def test_complete_part_is_recognised(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"] = Resource(DATA, chunked=True)
    leave_part(server, tmp_path / "a.bin", 299_999)
    part = tmp_path / "a.bin.part"
    part.write_bytes(DATA)
    sidecar = tmp_path / "a.bin.part.json"
    sidecar.write_text(sidecar.read_text().replace("299999", "300000"))
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")  # answered 416: nothing is left to send
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_bytes_not_yet_synced_are_fetched_again(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    with open(tmp_path / "a.bin.part", "ab") as part:
        part.write(bytes(5000))  # what a power cut leaves: length without content
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert server.ranges("/a.bin") == ["bytes=100000-"]
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_damaged_part_is_fetched_once_more(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    leave_part(server, tmp_path / "a.bin", 100_000)
    with open(tmp_path / "a.bin.part", "r+b") as part:
        part.write(b"damage")
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert server.ranges("/a.bin") == ["bytes=100000-", None]
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.parametrize("by_date", [False, True])
def test_fetch_waits_before_a_retry_as_long_as_a_429_asks(
    server: FaultyServer, fetcher: Fetcher, waits: list[float], tmp_path: Path, by_date: bool
) -> None:
    after = formatdate(time.time() + 100, usegmt=True) if by_date else "100"
    server.files["/a.bin"].faults = [Fault(status=429, headers={"Retry-After": after})]
    fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert waits == [pytest.approx(100, abs=10)]
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_fetch_waits_twice_as_long_after_each_failure(
    server: FaultyServer, fetcher: Fetcher, waits: list[float], tmp_path: Path
) -> None:
    server.files["/a.bin"].always = Fault(status=500)
    with pytest.raises(PermanentError, match="answers 500, 4 times in a row"):
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert waits == [pytest.approx(seconds, rel=0.26) for seconds in (1, 2, 4)]


def test_retry_after_beyond_the_longest_wait_selects_the_next_mirror(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.bin"].always = Fault(status=503, headers={"Retry-After": "86400"})
    other.files["/a.bin"] = Resource(DATA)
    fetched = fetcher.fetch(remote(server.url + "/a.bin", other.url + "/a.bin"), tmp_path / "a.bin")
    assert fetched.host == other.host
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_401_and_403_are_gates(server: FaultyServer, fetcher: Fetcher, tmp_path: Path, status: int) -> None:
    server.files["/a.bin"].always = Fault(status=status, body=b"sign here")
    with pytest.raises(PermanentError, match=str(status)) as caught:
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert caught.value.is_gate
    assert list(tmp_path.iterdir()) == []


def test_page_of_text_instead_of_the_file_is_refused(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.bin"] = Resource(b"<html>moved</html>", kind="text/plain; charset=utf-8")
    other.files["/a.bin"] = Resource(DATA)
    fetched = fetcher.fetch(remote(server.url + "/a.bin", other.url + "/a.bin"), tmp_path / "a.bin")
    assert fetched.host == other.host
    with pytest.raises(PermanentError, match="page of text"):
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "b.bin")


def test_page_sent_as_binary_is_detected_by_its_first_bytes(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.zip"] = Resource(b"<html>moved</html>")
    with pytest.raises(PermanentError, match=r"no \.zip file"):
        fetcher.fetch(remote(server.url + "/a.zip", name="a.zip"), tmp_path / "a.zip")
    assert list(tmp_path.iterdir()) == []


def test_table_may_be_served_as_text(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.tsv"] = Resource(b"id\ttext\n", kind="text/tab-separated-values")
    fetcher.fetch(remote(server.url + "/a.tsv", name="a.tsv"), tmp_path / "a.tsv")
    assert (tmp_path / "a.tsv").read_bytes() == b"id\ttext\n"


def test_wrong_length_is_refused_before_the_first_byte(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"].data = DATA[:1000]
    with pytest.raises(PermanentError, match="offers 1000 bytes, 300000 are published"):
        fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []


def test_approximate_size_may_be_wrong_but_not_a_hundredfold(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    addresses = (Address(server.url + "/a.bin"),)
    fetcher.fetch(RemoteFile("a.bin", addresses, n_bytes=500_000, is_exact=False), tmp_path / "a.bin")
    with pytest.raises(PermanentError, match="about 505000000 are expected"):
        fetcher.fetch(RemoteFile("b.bin", addresses, n_bytes=505_000_000, is_exact=False), tmp_path / "b.bin")


def test_body_of_unknown_length_is_refused(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"].always = Fault(headers={"Content-Length": ""})
    with pytest.raises(PermanentError, match="does not state the file's length"):
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")  # the hash tells
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_wrong_checksum_selects_the_next_mirror(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.bin"].data = DATA[::-1]
    other.files["/a.bin"] = Resource(DATA)
    with pytest.raises(PermanentError, match="sha256"):
        fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == []
    fetcher.fetch(remote(server.url + "/a.bin", other.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_mirror_resumes_the_part_of_another_only_with_a_published_hash(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    other.files["/a.bin"] = Resource(DATA, etag='"another machine"')
    for data, expected in ((DATA, "bytes=100000-"), (None, None)):
        target = tmp_path / str(expected)
        leave_part(server, target, 100_000)
        other.requests.clear()
        fetcher.fetch(remote(other.url + "/a.bin", data=data), target)
        assert other.ranges("/a.bin") == [expected]
        assert target.read_bytes() == DATA


def test_hash_of_the_first_download_is_enforced(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    file = RemoteFile("a.bin", (Address(server.url + "/a.bin"),), first_seen="0" * 64)
    with pytest.raises(PermanentError, match="when it was first downloaded"):
        fetcher.fetch(file, tmp_path / "a.bin")


def test_file_put_there_by_hand_is_checked_and_kept(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(DATA)
    (tmp_path / "a.bin.part.json").write_text("{}")  # of a process that was killed right after it named the file
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert server.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    (tmp_path / "a.bin").write_bytes(DATA[:-1])
    with pytest.raises(PermanentError, match="remove it"):
        fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")


def test_token_is_sent_to_its_host_only(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    """As the hub does it: its own address leads on to a store elsewhere, with the key to it in the query."""
    onward = f"{other.url}/store/a.bin?X-Amz-Signature=secret-signature"
    server.files["/a.bin"].always = Fault(status=302, headers={"Location": "/b.bin"})
    server.files["/b.bin"] = Resource(DATA, always=Fault(status=307, headers={"Location": onward}))
    other.files["/store/a.bin"] = Resource(DATA, faults=[Fault(cut_after=1000)])
    fetcher.fetch(remote(server.url + "/a.bin", token="Bearer secret-token"), tmp_path / "a.bin")
    assert [request.headers.get("authorization") for request in server.requests] == ["Bearer secret-token"] * 4
    assert [request.headers.get("authorization") for request in other.requests] == [None, None]
    assert other.ranges("/store/a.bin") == [None, "bytes=1000-"]


def test_no_secret_is_in_logs_errors_or_sidecars(
    server: FaultyServer, other: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    fetcher = Fetcher(policy=POLICY, sleep=lambda seconds: None)
    onward = f"{other.url}/a.bin?X-Amz-Signature=secret-signature"
    server.files["/a.bin"].always = Fault(status=302, headers={"Location": onward})
    other.files["/a.bin"] = Resource(DATA, faults=[Fault(cut_after=1000)], always=None)
    other.files["/a.bin"].faults += [Fault(cut_after=0)] * 4
    url = server.url.replace("//", "//user:secret-password@") + "/a.bin?key=secret-key"
    with pytest.raises(PermanentError) as caught:
        fetcher.fetch(remote(url, token="Bearer secret-token"), tmp_path / "a.bin")
    left = "".join(path.read_text(errors="replace") for path in tmp_path.glob("*.json"))
    assert '"n_bytes": 1000' in left
    assert "secret" not in left + caplog.text + str(caught.value) + repr(Address(url, "Bearer secret-token"))


def test_redirect_from_https_to_http_is_refused(server: FaultyServer) -> None:
    address = Address(server.url + "/a.bin")
    with FaultyServer(encrypted=True) as vault, httpx2.Client(verify=tls_context()) as client:
        vault.files["/clear"] = Resource(b"", always=Fault(status=302, headers={"Location": address.url}))
        vault.files["/vault"] = Resource(b"", always=Fault(status=302, headers={"Location": "/a"}))
        vault.files["/a"] = Resource(b"safe")
        with send(client, "GET", Address(vault.url + "/vault")) as response:
            assert response.read() == b"safe"
        with pytest.raises(PermanentError, match="not encrypted"), send(client, "GET", Address(vault.url + "/clear")):
            pass
    assert server.requests == []


def test_files_are_fetched_in_parallel_with_a_limit_per_host(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    files = []
    for host in (server, other):
        for number in range(5):
            host.files[f"/{number}"] = Resource(DATA[:20_000], bytes_per_second=100_000)
            files.append(remote(f"{host.url}/{number}", name=f"{host.host}/{number}"))
    assert [fetched.name for fetched in fetcher.fetch_all(files, tmp_path)] == [file.name for file in files]
    assert server.most_at_once == other.most_at_once == 2


def test_failure_of_one_file_ends_the_others(
    server: FaultyServer, other: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/slow"] = Resource(DATA, bytes_per_second=50_000)
    other.files["/gone"] = Resource(b"", faults=[Fault(status=500)], always=None)
    other.files["/gone"].faults.append(Fault(status=404))
    start = time.monotonic()
    with pytest.raises(PermanentError, match="404"):
        fetcher.fetch_all(
            [remote(server.url + "/slow", name="slow"), remote(other.url + "/gone", name="gone")], tmp_path
        )
    assert time.monotonic() - start < 4
    assert not (tmp_path / "slow").exists()


def test_stop_ends_a_long_wait(server: FaultyServer, tmp_path: Path) -> None:
    fetcher = Fetcher(policy=RetryPolicy(longest_wait_seconds=3600))
    server.files["/a.bin"].always = Fault(status=503, headers={"Retry-After": "600"})
    threading.Timer(0.5, fetcher.stop).start()
    start = time.monotonic()
    with pytest.raises(Stopped):
        fetcher.fetch_all([remote(server.url + "/a.bin")], tmp_path)
    assert time.monotonic() - start < 5


def test_free_space_is_checked_before_the_first_byte(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    server.files["/a.bin"].always = Fault(headers={"Content-Length": str(10**18)})
    with pytest.raises(CodecctlError, match="make room"):
        fetcher.fetch(remote(server.url + "/a.bin"), tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()


ONE_FILE = textwrap.dedent(
    """
    import resource, signal, sys
    from pathlib import Path
    from codecctl.data.download import part
    from codecctl.data.download.fetch import Fetcher
    from codecctl.data.download.remote import Address, RemoteFile
    from codecctl.data.download.web import RetryPolicy
    url, target, limit = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    part.SYNC_SECONDS = 0.02
    fetcher = Fetcher(policy=RetryPolicy(attempts=2, first_wait_seconds=0.01))
    try:
        fetcher.fetch(RemoteFile("a.bin", (Address(url),)), target)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
    """
)


def run_one(server: FaultyServer, target: Path, *, limit: int = 0, around: tuple[str, ...] = ()) -> str:
    command = [*around, sys.executable, "-c", ONE_FILE, server.url + "/a.bin", str(target), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.stderr


@pytest.mark.slow
def test_fetch_resumes_after_its_process_was_killed(server: FaultyServer, fetcher: Fetcher, tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    server.files["/a.bin"].bytes_per_second = 200_000
    process = subprocess.Popen([sys.executable, "-c", ONE_FILE, server.url + "/a.bin", str(target), "0"])
    deadline, sidecar = time.monotonic() + 30, tmp_path / "a.bin.part.json"
    while (read_json(sidecar, dict) or {}).get("n_bytes", 0) < 50_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not target.exists()
    kept = json.loads(sidecar.read_text())["n_bytes"]
    server.files["/a.bin"].bytes_per_second = None
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), target)
    assert server.ranges("/a.bin") == [None, f"bytes={kept}-"]
    assert kept >= 50_000
    assert target.read_bytes() == DATA


@pytest.mark.slow
def test_limit_on_file_sizes_is_reported_and_the_part_kept(
    server: FaultyServer, fetcher: Fetcher, tmp_path: Path
) -> None:
    server.files["/a.bin"] = Resource(DATA, chunked=True)
    told = run_one(server, tmp_path / "a.bin", limit=200_000)
    assert told.startswith("CodecctlError: ")
    assert "the disk is full; what has arrived of a.bin is kept: make room and run the same command again" in told
    assert not (tmp_path / "a.bin").exists()
    fetcher.fetch(remote(server.url + "/a.bin", data=DATA), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == DATA


@pytest.mark.slow
def test_full_disk_is_reported_and_the_part_kept(server: FaultyServer, tmp_path: Path) -> None:
    """A disk of 200 kB in a namespace of our own, where the system allows one; the limit above works everywhere."""
    mount = ("unshare", "--map-root-user", "--mount", "sh", "-c")
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=200k tmpfs {disk} && "
    if subprocess.run([*mount, script + "true"], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here; the limit on a file's size tests the same path")
    server.files["/a.bin"] = Resource(DATA, chunked=True)
    told = run_one(server, disk / "a.bin", around=(*mount, script + 'exec "$0" "$@"'))
    assert "CodecctlError: " in told
    assert "the disk is full" in told
    server.files["/a.bin"] = Resource(DATA)  # now its length is known, and the room is asked for first
    told = run_one(server, disk / "a.bin", around=(*mount, script + 'exec "$0" "$@"; ls ' + str(disk)))
    assert "needs 300,000 bytes more" in told
