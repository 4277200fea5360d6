"""The recordings of a corpus job: those of prepared folders, and of all that `prepare` takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from codecctl.audio import Audio
from codecctl.audio.files import AudioReader, find_files
from codecctl.audio.resample import Resampler
from codecctl.data import SAMPLE_RATE
from codecctl.data.download.corpus import find_corpora
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare.items import AudioItem
from codecctl.data.prepare.sources import read_source
from codecctl.data.shards import read_about
from codecctl.errors import CodecctlError

_LISTS = (".jsonl", ".parquet")


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
            id=utterance.id,
            dataset=utterance.dataset,
            language=utterance.language,
            speaker=utterance.speaker,
            licence=utterance.licence,
            text=utterance.text,
            split=utterance.split,
            native_rate=utterance.native_sample_rate,
            n_bytes=2 * utterance.n_samples,
            file=utterance.shard,
            raw_rate=SAMPLE_RATE,
            start_seconds=utterance.first_sample / SAMPLE_RATE,
            n_seconds=utterance.seconds,
        )


def mono_blocks(reader: AudioReader, item: AudioItem, sample_rate: int) -> Iterator[Audio]:
    """The recording as `[L]` at `sample_rate`. Raises `CodecctlError` if it ends before its stated length."""
    resampler, n_read = Resampler(reader.sample_rate, sample_rate), 0
    for block in reader.blocks(start_seconds=item.start_seconds or 0.0, n_seconds=item.n_seconds):
        n_read += block.shape[-1]
        yield resampler.push(reader.to_mono(block))[0]
    yield resampler.flush()[0]
    seconds = n_read / reader.sample_rate
    if item.n_seconds is not None and seconds < item.n_seconds - 0.1:
        raise CodecctlError(f"ends after {seconds:.2f} of the {item.n_seconds:.2f} s that its list states")
