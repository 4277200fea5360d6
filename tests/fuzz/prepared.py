"""A prepared folder: the manifest, `prepared.json`, the index; and the rows and logs that are read again."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np

from codecctl.config.schema import DataConfig
from codecctl.data import SPLITS
from codecctl.data.crops import Crops
from codecctl.data.manifest import Utterance, read_manifest, to_line
from codecctl.data.shards import ROW, Index, write_index
from codecctl.evaluate.rows import Row, RowFile
from codecctl.train.checkpoint import Run
from codecctl.train.log import _align
from tests.fuzz.harness import Target

_N_UTTERANCES, _N_SAMPLES = 6, 4000


def _utterances() -> list[Utterance]:
    names = [f"données/{n}" for n in range(_N_UTTERANCES)]
    return [
        Utterance(
            id=name, source=f"{name}.wav", dataset="données", language="fr" if n else None, speaker=f"s{n // 2}",
            licence="CC0-1.0", text='il dit "non"\\' if n else None, native_sample_rate=48_000, lossy=None,
            bandwidth_hz=7900.5, level_db=-23.0, clipping=0.0, split=SPLITS[n % 2], shard="shards/a.pcm",
            first_sample=n * _N_SAMPLES, n_samples=_N_SAMPLES,
        )
        for n, name in enumerate(names)
    ]  # fmt: skip


def _manifest() -> Mapping[str, bytes]:
    lines = [to_line(utterance).encode() for utterance in _utterances()]
    big = lines[0].replace(b"48000", 5000 * b"9") + lines[1].replace(b'"fr"', 2000 * b"[" + 2000 * b"]")
    return {"manifest.jsonl": b"".join(lines), "one.jsonl": lines[1], "big.jsonl": big}


def _read_manifest(path: Path) -> None:
    for utterance in read_manifest(path):
        assert isinstance(utterance.first_sample, int)
        assert isinstance(utterance.id, str)
        assert abs(utterance.n_samples) < 10**19
        to_line(utterance).encode(errors="backslashreplace")


def _index() -> Index:
    rows = np.zeros(_N_UTTERANCES, ROW)
    rows["first_sample"], rows["n_samples"] = np.arange(_N_UTTERANCES) * _N_SAMPLES, _N_SAMPLES
    rows["speaker"], rows["split"] = np.arange(_N_UTTERANCES) // 2, np.arange(_N_UTTERANCES) % 2
    rows["bandwidth_hz"], rows["level_db"] = 8000, -23
    return Index(rows, ("shards/a.pcm",), ("données",), (None, "fr"), ("CC0-1.0",))


def _prepared() -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        write_index(Path(folder), _index(), split_seed=0, validation_share=0.5)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


_CONFIGS = (DataConfig(), DataConfig.model_validate({"mix": {"datasets": {"données": 2.0}, "languages": {"fr": 2.0}}}))


def _read_prepared(path: Path) -> None:
    """The damaged file among whole ones; crops are drawn as a training draws them."""
    inputs = {**PREPARED.inputs, path.name: path.read_bytes()}
    with tempfile.TemporaryDirectory(dir=path.parent) as name:
        folder = Path(name)
        for file, data in inputs.items():
            (folder / file).write_bytes(data)
        (folder / "shards").mkdir()
        (folder / "shards" / "a.pcm").write_bytes(bytes(2 * _N_UTTERANCES * _N_SAMPLES))
        for config in _CONFIGS:
            crops = Crops(folder, "train", 1600, 0, config)
            assert crops.batch(0, 2).shape == (2, 1, 1600)


def _rows() -> Mapping[str, bytes]:
    row = Row(
        id="a", dataset="b", language=None, speaker="c", seconds=2.0, scores={"codec": {"pesq": 3.1, "stoi": np.nan}},
        n_bits={"codec": 800}, snr_bounds_db=(3.0, np.inf), codes=np.arange(12, dtype=np.uint16).reshape(3, 4),
        envelope=np.zeros((2, 5), np.int8), n_equal_codes=(1, 2),
    )  # fmt: skip
    return {"rows.jsonl": b'{"version": 1}\n' + 2 * row.to_line().encode()}


def _read_rows(path: Path) -> None:
    file = RowFile(path)
    file.settings()
    for row in file.rows():
        assert row.codes.ndim == 2
        row.to_line()


def _log() -> Mapping[str, bytes]:
    lines = [b'{"step": %d, "kind": "train", "loss": 0.5, "codebook_usage": [1.0, null]}\n' % n for n in range(20)]
    return {"metrics.jsonl": b"".join(lines)}


def _read_log(path: Path) -> None:
    run = cast(Run, SimpleNamespace(metrics=path))
    _align(run, 10)
    path.read_text(encoding="utf-8")


MANIFEST = Target("manifest", _manifest, _read_manifest)
PREPARED = Target("prepared", _prepared, _read_prepared)
ROWS = Target("rows", _rows, _read_rows)
LOG = Target("log", _log, _read_log)
