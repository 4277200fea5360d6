"""Whole corpora from local servers with the real protocols, in archives with the real layouts."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codecctl.data.download.corpus import is_unfinished, make_plan, read_marker
from codecctl.data.download.progress import Progress
from codecctl.data.download.recipes import Corpus, Licence, read_recipe, read_recipes
from codecctl.data.download.run import Outcome, download, split_pins
from codecctl.data.download.sources import HttpSource
from codecctl.data.download.web import RetryPolicy
from codecctl.data.prepare.sources import items_of_corpus
from codecctl.errors import CodecctlError, UsageError
from codecctl.lock import LeaseTiming
from tests.data.server import Fault, FaultyServer, Request, Resource

POLICY = RetryPolicy(attempts=3, first_wait_seconds=0.01, longest_wait_seconds=1, read_seconds=10)
TIMING = LeaseTiming(renew_seconds=0.5, stale_seconds=60, poll_seconds=0.02)
WAV = random.Random(3).randbytes(60_000)  # the downloader does not listen


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as running:
        yield running


@pytest.fixture
def store() -> Iterator[FaultyServer]:
    """Another host, where the hub and the collective keep their files."""
    with FaultyServer("127.0.0.2") as running:
        yield running


@pytest.fixture
def shipped() -> dict[str, Corpus]:
    return {corpus.name: corpus for corpus in read_recipes()}


class Listener(Progress):
    """Records what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def bring(corpus: Corpus, root: Path, **options: Any) -> Outcome:
    return download([corpus], root, policy=POLICY, timing=TIMING, **options)[0]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, data in files.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def at(corpus: Corpus, *servers: FaultyServer, files: dict[str, bytes] | None = None) -> Corpus:
    """A shipped recipe with local mirrors; published sizes and hashes become those of the local `files`."""
    assert isinstance(corpus.source, HttpSource)
    addresses = tuple(f"{server.url}/{{name}}" for server in servers)
    own = []
    for file in corpus.source.files:
        data = (files or {}).get(file.name)
        if data is not None:
            size = len(data) if file.bytes is not None else None
            digest = hashlib.sha256(data).hexdigest() if file.sha256 is not None else None
            file = file.model_copy(update={"bytes": size, "sha256": digest})
            for server in servers:
                server.files[f"/{file.name}"] = Resource(data)
        own.append(file)
    source = corpus.source.model_copy(update={"addresses": addresses, "files": tuple(own)})
    return corpus.model_copy(update={"source": source})


SLR66 = {
    "te_in_female.zip": zipped({"line_index.tsv": b"tef_1_1\ta\n", "tef_1_1.wav": WAV}),
    "te_in_male.zip": zipped({"line_index.tsv": b"tem_2_1\tb\n", "tem_2_1.wav": WAV}),
}
LIBRI = {"dev-clean.tar.gz": tarred({"LibriSpeech/dev-clean/84/121123/84-121123-0000.flac": WAV})}


def test_slr66_gets_a_folder_for_each_zip_and_a_lock_for_its_unpublished_hashes(
    server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    corpus = at(shipped["slr66-te"], server, files=SLR66)
    outcome = bring(corpus, tmp_path)
    assert (outcome.state, outcome.n_audio_files) == ("downloaded", 2)
    folder = tmp_path / "slr66-te"
    texts = [item.text for item in items_of_corpus(corpus, folder)]
    assert texts == ["a", "b"]  # neither line_index.tsv lay over the other
    marker = read_marker(folder)
    assert marker is not None
    assert {file.name: file.sha256 for file in marker.files} == {
        name: hashlib.sha256(data).hexdigest() for name, data in SLR66.items()
    }  # the optional files were not there, which stops nobody
    assert sorted(path.name for path in folder.iterdir() if path.name[0] != ".") == ["corpus.json", "female", "male"]
    lock = json.loads((tmp_path / "slr66-te.lock.json").read_text())
    assert set(lock["files"]) == set(SLR66)


@pytest.mark.slow
def test_second_download_sends_no_request(server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path) -> None:
    corpus = at(shipped["slr66-te"], server, files=SLR66)
    bring(corpus, tmp_path)
    server.requests.clear()
    assert bring(corpus, tmp_path).state == "already there"
    assert server.requests == []
    (tmp_path / "slr66-te" / "male").rename(tmp_path / "moved")  # half of it is gone: then it is not there
    assert make_plan([corpus], tmp_path)[0].done is False
    assert bring(corpus, tmp_path).state == "downloaded"


def test_file_that_changed_since_the_first_download_is_refused(
    server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    bring(at(shipped["slr66-te"], server, files=SLR66), tmp_path)
    (tmp_path / "slr66-te").rename(tmp_path / "old")
    forged = zipped({"tef_1_1.wav": WAV[::-1]})
    outcome = bring(at(shipped["slr66-te"], server, files={**SLR66, "te_in_female.zip": forged}), tmp_path)
    assert outcome.state == "failed"
    assert "when it was first downloaded" in outcome.message
    assert read_marker(tmp_path / "slr66-te") is None


def test_mirrors_are_tried_in_turn(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    corpus = at(shipped["librispeech-dev-clean"], server, store, files=LIBRI)
    server.files["/dev-clean.tar.gz"] = Resource(b"moved", kind="text/html")
    listener = Listener()
    assert bring(corpus, tmp_path, progress=listener).state == "downloaded"
    marker = read_marker(tmp_path / corpus.name)
    assert marker is not None
    assert [file.host for file in marker.files] == [store.host]
    assert any("trying the next mirror" in line for line in listener.said)


def test_wrong_unverified_hash_is_reported_and_the_file_kept(
    server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    data = tarred({"digits/1.sln16": WAV})
    corpus = at(shipped["asterisk-core-sounds-en"], server)
    server.files["/asterisk-core-sounds-en-sln16-1.6.1.tar.gz"] = Resource(data)
    listener = Listener()
    assert bring(corpus, tmp_path, progress=listener).state == "downloaded"
    assert any("never verified" in line for line in listener.said)
    lock = json.loads((tmp_path / f"{corpus.name}.lock.json").read_text())
    assert [seen["sha256"] for seen in lock["files"].values()] == [hashlib.sha256(data).hexdigest()]


@pytest.mark.parametrize("name", ["../outside.flac", "/etc/outside.flac"])
def test_hostile_archive_leaves_no_file_and_no_marker(
    server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path, name: str
) -> None:
    files = {"dev-clean.tar.gz": tarred({"good.flac": WAV, name: WAV})}
    outcome = bring(at(shipped["librispeech-dev-clean"], server, files=files), tmp_path)
    assert outcome.state == "failed"
    assert "nothing was unpacked" in outcome.message
    assert read_marker(tmp_path / "librispeech-dev-clean") is None
    assert list(tmp_path.rglob("*.flac")) == []


def test_archive_without_audio_is_an_error(server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path) -> None:
    files = {"dev-clean.tar.gz": tarred({"README": b"moved"})}
    outcome = bring(at(shipped["librispeech-dev-clean"], server, files=files), tmp_path)
    assert "no recording in it" in outcome.message
    assert read_marker(tmp_path / "librispeech-dev-clean") is None


def test_failed_corpus_does_not_stop_the_next(server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path) -> None:
    bad = at(shipped["ljspeech"], server)
    good = at(shipped["slr66-te"], server, files=SLR66)
    outcomes = download([bad, good], tmp_path, policy=POLICY, timing=TIMING)
    assert [outcome.state for outcome in outcomes] == ["failed", "downloaded"]
    assert "404" in outcomes[0].message


def test_missing_disk_space_is_an_error_before_any_request(
    server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    corpus = at(shipped["ljspeech"], server)
    assert isinstance(corpus.source, HttpSource)
    huge = corpus.source.files[0].model_copy(update={"bytes": 10**18})
    corpus = corpus.model_copy(update={"source": corpus.source.model_copy(update={"files": (huge,)})})
    with pytest.raises(CodecctlError, match="GB are needed"):
        bring(corpus, tmp_path)
    assert server.requests == []


def test_licence_is_asked_for_once(server: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path) -> None:
    licence = shipped["indictts-te"].licence
    corpus = at(shipped["slr66-te"], server, files=SLR66).model_copy(update={"licence": licence})
    asked: list[str] = []

    def refuse(terms: Licence) -> bool:
        asked.append(terms.name)
        return False

    refused = bring(corpus, tmp_path, ask=refuse)
    assert refused.state == "failed"
    assert f"read {licence.url} and add --accept-licence {licence.name}" in refused.message
    assert server.requests == []
    assert bring(corpus, tmp_path, accepted=[licence.name]).state == "downloaded"
    again = corpus.model_copy(update={"name": "slr66-again"})
    assert bring(again, tmp_path, ask=refuse).state == "downloaded"
    assert asked == [licence.name]


def test_manual_corpus_returns_its_steps_and_then_takes_the_files(shipped: dict[str, Corpus], tmp_path: Path) -> None:
    corpus = shipped["mucs-te"]
    accepted = [corpus.licence.name]
    outcome = bring(corpus, tmp_path, accepted=accepted)
    assert outcome.state == "by hand"
    assert corpus.gate is not None
    assert any(corpus.gate.url in step for step in outcome.steps)
    (tmp_path / "mucs-te" / "te-in-Train" / "Audios").mkdir(parents=True)
    (tmp_path / "mucs-te" / "te-in-Train" / "Audios" / "1.wav").write_bytes(WAV)
    assert bring(corpus, tmp_path, accepted=accepted).state == "downloaded"
    assert bring(corpus, tmp_path).state == "already there"


# ---- the Hugging Face hub

COMMIT = "70bb2e84b976b7e960aa89f1c648e09c59f894dd"


class Hub:
    """The endpoints of the hub that a download needs; large files lie at a store elsewhere, as they do there."""

    def __init__(self, server: FaultyServer, store: FaultyServer, repo: str, files: dict[str, bytes]) -> None:
        self.server, self.store, self.repo, self.files = server, store, repo, files
        self.gated = False
        self.commit = COMMIT
        server.answers.append(self.answer)
        for path, data in files.items():
            store.files[f"/{path}"] = Resource(data)

    def tree(self) -> list[dict[str, Any]]:
        entries = []
        for path, data in self.files.items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": blob}
            if not path.endswith(".tsv"):
                sha256 = hashlib.sha256(data).hexdigest()
                entry |= {"oid": "0" * 40, "lfs": {"oid": sha256, "size": len(data), "pointerSize": 134}}
            entries.append(entry)
        return [{"type": "directory", "path": "data", "size": 0, "oid": "0" * 40}, *entries]

    def answer(self, request: Request) -> Fault | Resource | None:
        path = request.path.split("?")[0]
        if path.startswith(f"/api/datasets/{self.repo}/tree/{self.commit}"):
            return _json(self.tree())
        if re.fullmatch(rf"/api/datasets/{self.repo}/revision/(main|{self.commit})", path):
            return _json({"id": self.repo, "sha": self.commit, "siblings": []})
        prefix = f"/datasets/{self.repo}/resolve/{self.commit}/"
        if not path.startswith(prefix):
            return None
        if self.gated and request.headers.get("authorization") != "Bearer hf_secret":
            return Fault(status=401, headers={"X-Error-Code": "GatedRepo"})
        name = path.removeprefix(prefix)
        if name.endswith(".tsv"):
            return Resource(self.files[name], kind="text/plain; charset=utf-8")
        return Fault(status=302, headers={"Location": f"{self.store.url}/{name}?X-Amz-Signature=secret"})


def _json(value: object) -> Fault:
    return Fault(status=200, body=json.dumps(value).encode(), headers={"Content-Type": "application/json"})


@pytest.fixture(autouse=True)
def _room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shipped corpora need up to 15 GB, which a machine of tests may not have."""
    monkeypatch.setattr("codecctl.data.download.corpus.free_bytes", lambda folder: 10**12)


@pytest.fixture
def at_hub(monkeypatch: pytest.MonkeyPatch, server: FaultyServer, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


FLEURS = {
    "data/te_in/audio/train.tar.gz": tarred({"train/1.wav": WAV}),
    "data/te_in/audio/dev.tar.gz": tarred({"dev/2.wav": WAV}),
    "data/te_in/train.tsv": b"9\t1.wav\tRaw\traw\tr\t100\tMALE\n",
    "data/hi_in/train.tsv": b"not ours",
    "fleurs.py": b"print()",
}
KATHBATH = {f"telugu/train-0000{n}-of-00003.parquet": b"PAR1" + WAV[n:] for n in range(3)}


@pytest.mark.usefixtures("at_hub")
def test_fleurs_comes_from_the_hub_at_its_pinned_commit(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    Hub(server, store, "google/fleurs", FLEURS)
    corpus = shipped["fleurs-te_in"]
    assert bring(corpus, tmp_path).state == "downloaded"
    items = {item.place: item for item in items_of_corpus(corpus, tmp_path / corpus.name)}
    assert list(items) == ["data/te_in/audio/dev/dev/2.wav", "data/te_in/audio/train/train/1.wav"]
    assert [item.text for item in items.values()] == [None, "Raw"]
    marker = read_marker(tmp_path / corpus.name)
    assert marker is not None
    assert marker.pin == COMMIT
    assert not (tmp_path / corpus.name / "data" / "hi_in").exists()


@pytest.mark.usefixtures("at_hub")
def test_fleurs_falls_back_to_the_one_archive(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    server.answers.append(lambda request: Fault(status=404))
    store.files["/te_in.tar.gz"] = Resource(tarred({"te_in/audio/train/1.wav": WAV}))
    corpus = shipped["fleurs-te_in"]
    assert isinstance(corpus.fallback, HttpSource)
    fallback = corpus.fallback.model_copy(update={"addresses": (store.url + "/{name}",)})
    assert bring(corpus.model_copy(update={"fallback": fallback}), tmp_path).state == "downloaded"
    assert (tmp_path / corpus.name / "te_in/te_in/audio/train/1.wav").read_bytes() == WAV


@pytest.mark.usefixtures("at_hub")
def test_gated_dataset_returns_its_steps_and_the_token_goes_to_the_hub_only(
    server: FaultyServer,
    store: FaultyServer,
    shipped: dict[str, Corpus],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Hub(server, store, "ai4bharat/Kathbath", KATHBATH).gated = True
    corpus = shipped["kathbath-te"]
    refused = bring(corpus, tmp_path)
    assert refused.state == "failed"
    assert corpus.gate is not None
    assert refused.steps == corpus.gate.steps
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert bring(corpus, tmp_path).state == "downloaded"
    assert all("authorization" not in request.headers for request in store.requests)
    everything = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*.json"))
    assert "secret" not in everything + refused.message


@pytest.mark.usefixtures("at_hub")
@pytest.mark.parametrize("path", ["telugu/../../../escaped.parquet", "/escaped.parquet"])
def test_path_outside_of_the_folder_in_the_hubs_list_is_refused(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path, path: str
) -> None:
    Hub(server, store, "ai4bharat/Kathbath", {path: b"PAR1" + WAV})
    corpus = shipped["kathbath-te"]
    source = corpus.source.model_copy(update={"files": ("*.parquet",)})
    outcome = bring(corpus.model_copy(update={"source": source}), tmp_path / "a" / "b")
    assert outcome.state == "failed"
    assert outcome.message == f"ai4bharat/Kathbath: lists '{path}', a path outside of the corpus' folder"
    assert not list(tmp_path.rglob("*.parquet*"))


@pytest.mark.usefixtures("at_hub")
def test_file_of_the_hub_where_an_archive_is_unpacked_is_refused(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    Hub(server, store, "google/fleurs", {**FLEURS, "data/te_in/audio/train/more.tsv": b""})
    outcome = bring(shipped["fleurs-te_in"].model_copy(update={"fallback": None}), tmp_path)
    assert outcome.message.startswith("google/fleurs: 'data/te_in/audio/train/more.tsv' is where an archive")


@pytest.mark.usefixtures("at_hub")
def test_commit_of_the_first_download_is_kept(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path
) -> None:
    hub = Hub(server, store, "ai4bharat/Kathbath", KATHBATH)
    corpus = shipped["kathbath-te"]
    bring(corpus, tmp_path)
    (tmp_path / corpus.name).rename(tmp_path / "old")
    hub.commit = "f" * 40  # the hub has moved on, and answers for the old commit no more
    outcome = bring(corpus, tmp_path)
    assert outcome.state == "failed"
    assert bring(corpus, tmp_path, pins={corpus.name: "f" * 40}).state == "downloaded"


@pytest.mark.usefixtures("at_hub")
@pytest.mark.parametrize("victim", ["telugu/train-00001-of-00003.parquet"])
def test_download_resumes_after_the_hub_failed_in_the_middle(
    server: FaultyServer, store: FaultyServer, shipped: dict[str, Corpus], tmp_path: Path, victim: str
) -> None:
    Hub(server, store, "ai4bharat/Kathbath", KATHBATH)
    store.files[f"/{victim}"].always = Fault(cut_after=0)
    corpus = shipped["kathbath-te"]
    assert bring(corpus, tmp_path).state == "failed"
    assert read_marker(tmp_path / corpus.name) is None
    store.files[f"/{victim}"].always = None
    assert bring(corpus, tmp_path).state == "downloaded"
    folder = tmp_path / corpus.name
    assert {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.parquet")} == KATHBATH


# ---- the Mozilla Data Collective


class Collective:
    """The one endpoint that a download needs."""

    def __init__(self, server: FaultyServer, store: FaultyServer, data: bytes) -> None:
        self.store, self.data = store, data
        self.terms_accepted, self.sessions = True, 0
        server.answers.append(self.answer)
        store.answers.append(self.signed)
        store.files["/archive"] = Resource(data)

    def answer(self, request: Request) -> Fault | None:
        found = re.fullmatch(r"/api/datasets/(\w+)/download", request.path)
        if request.method != "POST" or not found:
            return None
        if request.headers.get("authorization") != "Bearer mdc-secret":
            return Fault(status=401)
        if not self.terms_accepted:
            return Fault(status=403, body=b"accept the terms")
        self.sessions += 1
        return _json(
            {
                "downloadUrl": f"{self.store.url}/archive?signature=secret-{self.sessions}",
                "sizeBytes": str(len(self.data)),
                "checksum": "sha256:" + hashlib.sha256(self.data).hexdigest(),
                "filename": "common-voice-25-telugu.tar.gz",
                "expiresAt": "2026-12-01T00:00:00Z",
            }
        )

    def signed(self, request: Request) -> Fault | None:
        """Only the newest address holds."""
        return None if request.path.endswith(f"=secret-{self.sessions}") else Fault(status=403)


CV = tarred({"cv-corpus-25.0-2026-03-09/te/clips/common_voice_te_1.mp3": WAV})


@pytest.fixture
def common_voice(shipped: dict[str, Corpus]) -> Corpus:
    """The recipe with the hash of our archive."""
    dumped = shipped["common-voice-te"].model_dump()
    dumped["source"]["file"] |= {"bytes": len(CV), "sha256": hashlib.sha256(CV).hexdigest()}
    return Corpus.model_validate(dumped)


@pytest.fixture
def collective(server: FaultyServer, store: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> Collective:
    monkeypatch.setenv("MDC_API_URL", server.url + "/api")
    monkeypatch.setenv("MDC_API_KEY", "mdc-secret")
    return Collective(server, store, CV)


def test_common_voice_key_is_not_sent_to_the_store(
    collective: Collective, common_voice: Corpus, tmp_path: Path, store: FaultyServer
) -> None:
    assert bring(common_voice, tmp_path).state == "downloaded"
    assert all("authorization" not in request.headers for request in store.requests)
    assert "secret" not in "".join(path.read_text() for path in tmp_path.rglob("*.json"))


def test_expired_address_is_renewed(
    collective: Collective, common_voice: Corpus, tmp_path: Path, store: FaultyServer
) -> None:
    class Expires:
        def __call__(self, request: Request) -> Fault | None:
            if "range" in request.headers and collective.sessions == 1:
                return Fault(status=403)
            return None

    store.answers.insert(0, Expires())
    store.files["/archive"].faults = [Fault(cut_after=20_000)]
    assert bring(common_voice, tmp_path).state == "downloaded"
    assert collective.sessions == 2
    assert store.ranges("/archive") == [None, "bytes=20000-", "bytes=20000-"]


def test_missing_key_or_terms_return_the_steps(
    collective: Collective, common_voice: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collective.terms_accepted = False
    assert common_voice.gate is not None
    outcome = bring(common_voice, tmp_path)
    assert "403" in outcome.message
    assert outcome.steps == common_voice.gate.steps
    monkeypatch.delenv("MDC_API_KEY")
    outcome = bring(common_voice, tmp_path)
    assert "MDC_API_KEY is not set" in outcome.message
    assert outcome.steps == common_voice.gate.steps


def test_another_release_than_the_recipes_is_refused_unless_pinned(
    collective: Collective, shipped: dict[str, Corpus], tmp_path: Path, store: FaultyServer
) -> None:
    corpus = shipped["common-voice-te"]  # with the real hash, which our archive has not
    outcome = bring(corpus, tmp_path)
    assert "not the release of the recipe" in outcome.message
    assert store.requests == []
    assert bring(corpus, tmp_path, pins={"common-voice-te": "cmother"}).state == "downloaded"
    marker = read_marker(tmp_path / corpus.name)
    assert marker is not None
    assert marker.pin == "cmother"


def test_split_pins() -> None:
    assert split_pins(["vctk", "common-voice-te@abc"]) == (["vctk", "common-voice-te"], {"common-voice-te": "abc"})
    with pytest.raises(UsageError):
        split_pins(["vctk@"])


def test_pin_that_does_not_apply_is_refused(shipped: dict[str, Corpus], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no versions"):
        bring(shipped["vctk"], tmp_path, pins={"vctk": "1"})
    with pytest.raises(UsageError, match="single corpus"):
        bring(shipped["vctk"], tmp_path, pins={"fleurs": "1"})


# ---- other processes

RUN = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from codecctl.data.download.recipes import read_recipe
    from codecctl.data.download.web import RetryPolicy
    from codecctl.data.download.run import download
    from codecctl.lock import LeaseTiming
    (corpus,) = read_recipe(Path(sys.argv[1]))
    policy = RetryPolicy(attempts=3, first_wait_seconds=0.01)
    (outcome,) = download([corpus], Path(sys.argv[2]), policy=policy, timing=LeaseTiming(poll_seconds=0.05))
    print(outcome.state, outcome.message)
    """
)


@pytest.fixture
def slow_recipe(server: FaultyServer, tmp_path: Path) -> Path:
    """Two archives that take a second each."""
    for name in ("a", "b"):
        data = tarred({f"{name}/{n}.wav": random.Random(n).randbytes(40_000) for n in range(10)})
        server.files[f"/{name}.tar.gz"] = Resource(data, bytes_per_second=len(data))
    path = tmp_path / "slow.yaml"
    path.write_text(
        textwrap.dedent(f"""
        name: slow
        title: Slow
        languages: [te]
        licence: {{name: CC0-1.0, url: "https://example.org"}}
        source:
          kind: http
          addresses: ["{server.url}/{{name}}"]
          files: [{{name: a.tar.gz}}, {{name: b.tar.gz}}]
        layout: {{audio: "**/*.wav"}}
        verified: {{address: V, files: V, licence: V, layout: V}}
        """)
    )
    return path


def start(recipe: Path, root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(recipe), str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wav_files(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.wav")}


@pytest.mark.slow
def test_two_processes_download_once(server: FaultyServer, slow_recipe: Path, tmp_path: Path) -> None:
    both = [start(slow_recipe, tmp_path / "root") for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert said == ["already there", "downloaded"]
    assert len(server.requests) == 2
    assert len(wav_files(tmp_path / "root")) == 20


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "the lease is taken": lambda folder: any(lease.read_text() for lease in folder.glob(".lease-*")),
    "bytes arrive": lambda folder: any(part.stat().st_size > 50_000 for part in folder.glob("*.part")),
    "an archive is complete": lambda folder: any(folder.glob("*.tar.gz")),
    "an archive is unpacked": lambda folder: any(folder.glob(".receipts/*.json")),
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_download_resumes_after_a_kill(server: FaultyServer, slow_recipe: Path, tmp_path: Path, moment: str) -> None:
    process = start(slow_recipe, tmp_path / "root")
    while process.poll() is None and not MOMENTS[moment](tmp_path / "root" / "slow"):
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    for resource in server.files.values():
        resource.bytes_per_second = None
    (corpus,) = read_recipe(slow_recipe)
    assert bring(corpus, tmp_path / "root").state in ("downloaded", "already there")
    bring(corpus, tmp_path / "fresh")
    assert wav_files(tmp_path / "root") == wav_files(tmp_path / "fresh")
    kept = sorted(path.name for path in (tmp_path / "root" / "slow").iterdir() if not path.name.startswith(".lease"))
    assert kept == ["a", "b", "corpus.json"]


@pytest.mark.slow
def test_kill_during_unpacking_leaves_no_partial_folder(
    server: FaultyServer, slow_recipe: Path, tmp_path: Path
) -> None:
    many = tarred({f"{n}.wav": b"%d" % n for n in range(5000)})
    server.files["/a.tar.gz"] = Resource(many)
    server.files["/b.tar.gz"].bytes_per_second = None
    process = start(slow_recipe, tmp_path / "root")
    unpacking = tmp_path / "root" / "slow" / ".unpacking-a"
    deadline = time.monotonic() + 60
    while not (unpacking.is_dir() and len(os.listdir(unpacking)) > 100) and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert unpacking.is_dir()
    assert is_unfinished(tmp_path / "root" / "slow")
    assert not (tmp_path / "root" / "slow" / "a").exists()
    server.requests.clear()
    (corpus,) = read_recipe(slow_recipe)
    assert bring(corpus, tmp_path / "root").n_audio_files == 5010
    assert server.requests == []  # both archives had come
    assert not unpacking.exists()
    assert not is_unfinished(tmp_path / "root" / "slow")


def test_removed_marker_costs_a_second_fetch(server: FaultyServer, slow_recipe: Path, tmp_path: Path) -> None:
    for resource in server.files.values():
        resource.bytes_per_second = None
    (corpus,) = read_recipe(slow_recipe)
    assert bring(corpus, tmp_path).state == "downloaded"
    (tmp_path / "slow" / "corpus.json").unlink()
    server.requests.clear()
    assert bring(corpus, tmp_path).state == "downloaded"
    assert len(server.requests) == 2


@pytest.mark.slow
def test_ctrl_c_keeps_what_has_arrived(server: FaultyServer, slow_recipe: Path, tmp_path: Path) -> None:
    process = start(slow_recipe, tmp_path / "root")
    parts = [tmp_path / "root" / "slow" / f"{name}.tar.gz.part" for name in ("a", "b")]
    deadline = time.monotonic() + 60
    while not all(p.is_file() and p.stat().st_size > 50_000 for p in parts) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    server.requests.clear()
    (corpus,) = read_recipe(slow_recipe)
    assert bring(corpus, tmp_path / "root").state == "downloaded"
    assert all(int(request.headers["range"].strip("bytes=-")) > 50_000 for request in server.requests)


@pytest.mark.slow
def test_lost_lease_ends_the_download(server: FaultyServer, slow_recipe: Path, tmp_path: Path) -> None:
    (corpus,) = read_recipe(slow_recipe)
    for resource in server.files.values():
        resource.bytes_per_second = 20_000  # twenty seconds
    (tmp_path / "slow").mkdir()
    threading.Timer(1.0, (tmp_path / "slow" / ".lease-000007").write_text, ("{}",)).start()
    begin = time.monotonic()
    outcome = bring(corpus, tmp_path)
    assert "another process took over" in outcome.message
    assert time.monotonic() - begin < 10
