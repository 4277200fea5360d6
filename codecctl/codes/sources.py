"""The recordings of a corpus job: those of prepared folders, and of all that `prepare` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from codecctl.audio.files import find_files
from codecctl.data import SAMPLE_RATE
from codecctl.data.download.corpus import find_corpora
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare.items import AudioItem
from codecctl.data.prepare.sources import read_source
from codecctl.data.shards import read_about
from codecctl.errors import CodecctlError

_LISTS = (".jsonl", ".parquet")
_SHARED = ("id", "dataset", "language", "speaker", "licence", "text", "split")  # by utterances and items


def is_prepared(source: Path) -> bool:
    return (source / "prepared.json").is_file()


def names_corpus(source: Path) -> bool:
    """Whether a path can only mean a corpus: a prepared folder, downloaded corpora, a JSONL list, Parquet files."""
    if source.is_dir():
        is_one = is_prepared(source) or bool(find_corpora(source))
        return is_one or next(find_files(source, (".parquet",)), None) is not None
    return source.suffix.lower() in _LISTS


def read_items(source: Path, name: str, *, note: Callable[[str], None]) -> list[AudioItem]:
    """The recordings in the order in which their codes are stored. Raises `CodecctlError` if there are none."""
    if not is_prepared(source):
        return read_source(source, name, note=note)
    read_about(source)  # raises for another version
    items = list(_prepared_items(source))
    if not items:
        raise CodecctlError(f"{source}: no recordings in it")
    return items


def _prepared_items(folder: Path) -> Iterator[AudioItem]:
    """The utterances of a prepared folder: its shards are headerless samples."""
    for utterance in read_manifest(folder / "manifest.jsonl"):
        yield AudioItem(
            place=f"{utterance.shard}@{utterance.first_sample}",
            **{key: getattr(utterance, key) for key in _SHARED},
            native_rate=utterance.native_sample_rate,
            n_bytes=2 * utterance.n_samples,
            file=utterance.shard,
            raw_rate=SAMPLE_RATE,
            start_seconds=utterance.first_sample / SAMPLE_RATE,
            n_seconds=utterance.seconds,
        )
