"""Corpora of codes, of each container, and streams of packed frames."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from codecctl.bitstream import Codes
from codecctl.codes.dataset import CodeDataset
from codecctl.codes.folder import read_complete, read_manifest
from codecctl.codes.job import encode_corpus
from codecctl.codes.reading import check_corpus, read_utterances
from codecctl.errors import CodecctlError
from codecctl.inference.live import Live, decode_live, encode_live
from codecctl.inference.load import Codec, save_codec
from codecctl.model.codec import Codec as Model
from tests.conftest import write_audio
from tests.fuzz.harness import Target
from tests.fuzz.models import MODEL

_CONTAINERS = ("shards", "webdataset", "parquet")
_KINDS = {"codes": "codes.json", "manifest": "manifest.jsonl", "index": "index-*.npy", "shard": "shards/*",
          "results": "units/*.jsonl", "spec": "units/*.json"}  # fmt: skip
_OF_THE_JOB = ("results", "spec")  # which readers do not open
_open_decoder = Codec.stream_decoder


@cache
def _model() -> bytes:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codec.pt")
        save_codec(Model(MODEL), path)
        return path.read_bytes()


@cache
def _codec() -> Codec:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "codec.pt")
        path.write_bytes(_model())
        return Codec.load(path, "cpu")


def _samples(n_samples: int) -> np.ndarray:
    return np.random.default_rng(n_samples).normal(0, 0.1, (1, n_samples)).astype(np.float32)


def _encode(folder: Path, container: str) -> None:
    """Three recordings to `folder`/CONTAINER, the recordings and the model beside it."""
    for n in range(3):
        path = folder / "sources" / f"{n}.wav"
        path.parent.mkdir(exist_ok=True)
        write_audio(path, _samples(2000 + 100 * n), 16_000)
    (folder / "codec.pt").write_bytes(_model())
    encode_corpus([folder / "sources"], folder / container, folder / "codec.pt", container=container, device="cpu")


def _place(corpus: Path, kind: str) -> Path:
    return next(path for path in corpus.glob(_KINDS[kind]) if path.is_file())


@cache
def _codes() -> list[Codes]:
    """[K, T] of each recording."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _encode(folder, "shards")
        corpus = folder / "shards"
        return [codes for _, codes in read_utterances(corpus, read_complete(corpus))]


def _make_inputs() -> Mapping[str, bytes]:
    inputs: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        for container in _CONTAINERS:
            folder = Path(name, container)
            folder.mkdir()
            _encode(folder, container)
            kinds = _KINDS if container == "shards" else ("shard",)
            inputs |= {f"{container}~{kind}": _place(folder / container, kind).read_bytes() for kind in kinds}
    assert len(_codes()) == 3
    return inputs


def _read(path: Path) -> None:
    """The file takes its place in a corpus, which is then read in every way, and completed by another run."""
    container, kind = path.name.split("~")
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        for file, data in _whole(container).items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(data)
        corpus = folder / container
        _place(corpus, kind).write_bytes(path.read_bytes())
        errors = [error for read in _ways(corpus, kind) if (error := _attempt(read))]
    if errors:
        raise errors[0]


@cache
def _whole(container: str) -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        _encode(Path(name), container)
        files = (file for file in Path(name).rglob("*") if file.is_file())
        return {str(file.relative_to(name)): file.read_bytes() for file in files if ".jobs" not in file.parts}


def _ways(corpus: Path, kind: str) -> Iterator[Callable[[], None]]:
    if kind not in _OF_THE_JOB:
        yield lambda: _check(corpus)
        yield lambda: _read_codes(corpus)
    if corpus.name == "shards" and kind not in _OF_THE_JOB:
        yield lambda: _read_items(corpus)
    if kind in ("codes", *_OF_THE_JOB):
        yield lambda: _encode_again(corpus)


def _attempt(read: Callable[[], None]) -> CodecctlError | None:
    try:
        read()
    except CodecctlError as error:
        return error
    return None


def _check(corpus: Path) -> None:
    for problem in check_corpus(corpus).problems:
        raise CodecctlError(problem)


def _read_codes(corpus: Path) -> None:
    for utterance, codes in read_utterances(corpus, read_complete(corpus)):
        assert np.array_equal(codes, _codes()[utterance.row]), "other codes than were written"


def _read_items(corpus: Path) -> None:
    dataset = CodeDataset(corpus)
    for number in range(len(dataset)):
        assert dataset[number].codes.shape[0] == dataset.about.n_codebooks


def _encode_again(corpus: Path) -> None:
    """What says that it is complete has a list that can be read."""
    sources, model = corpus.parent / "sources", corpus.parent / "codec.pt"
    about = encode_corpus([sources], corpus, model, device="cpu").about
    assert about is not None
    assert len(list(read_manifest(corpus))) == about.n_utterances


def _make_streams() -> Mapping[str, bytes]:
    sink = io.BytesIO()
    raw = (2**15 * _samples(120)).astype("<i2").tobytes()
    encode_live(_codec(), io.BytesIO(raw), sink, Live(), rate=16_000)
    return {"stream.cctl": sink.getvalue()}


def _read_stream(path: Path) -> None:
    sink, live = io.BytesIO(), Live()
    untraced = patch.object(Codec, "stream_decoder", lambda codec, traced: _open_decoder(codec))  # tracing takes 0.5 s
    with path.open("rb") as source, untraced:
        decode_live(_codec(), source, sink, live)
    assert len(sink.getvalue()) == 44 + 2 * live.n_samples
    assert live.n_samples <= (live.n_frames + live.n_lost) * _codec().hop_length


CORPUS = Target("corpus", _make_inputs, _read)
STREAM = Target("stream", _make_streams, _read_stream)
