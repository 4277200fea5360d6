"""One audio item of a source: where it is, and what the source states of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codecctl.data import Split


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioItem:
    """One recording to prepare. None: unknown, or does not apply."""

    place: str  # unique in the source: the path below its folder, and which part of the file if not all of it
    id: str  # the place without suffix, after the dataset's name
    dataset: str
    language: str | None = None
    speaker: str | None = None
    licence: str | None = None
    text: str | None = None  # transcript
    split: Split | None = None  # of prepared audio
    native_rate: int | None = None  # Hz, of the original; None: that of the file
    lossy: str | None = None  # codec of the original; None: as the file shows
    n_bytes: int = 0
    modified_ns: int = 0
    file: str | None = None  # below the source's folder, or absolute; None: it is `place`
    raw_rate: int | None = None  # Hz, of headerless samples
    start_seconds: float | None = None  # where in the file it starts
    n_seconds: float | None = None
    row_group: int | None = None  # of a Parquet file
    row: int | None = None  # in the row group
    column: str | None = None  # of the audio
    fault: str | None = None  # why it cannot be prepared, if that is known already

    @property
    def part(self) -> tuple[str, int] | None:
        """File and row group: items that share them are read together and belong in one unit."""
        return None if self.row_group is None else (self.file or "", self.row_group)


def item_of_file(place: str, stem: str, known: Mapping[str, str], dataset: str, path: Path, **more: Any) -> AudioItem:
    """An item from a file and what is known of it, by the names of `tables.COLUMNS`; `dataset` unless that is known."""
    dataset, rate = known.get("dataset") or dataset, known.get("native_rate")
    n_bytes, modified_ns = size_and_time(path)
    return AudioItem(
        place=place,
        id=f"{dataset}/{stem.lstrip('/')}",
        dataset=dataset,
        language=known.get("language"),
        speaker=known.get("speaker"),
        licence=known.get("licence"),
        text=known.get("text"),
        native_rate=int(float(rate)) if rate and rate.replace(".", "", 1).isdecimal() else None,
        n_bytes=n_bytes,
        modified_ns=modified_ns,
        **more,
    )


def in_order(items: Sequence[AudioItem]) -> list[AudioItem]:
    """Sorted, a speaker's items together; where two would share an id (a.wav and a.flac), the id is the whole place."""
    counts = Counter(item.id for item in items)
    named = [e if counts[e.id] == 1 else replace(e, id=f"{e.dataset}/{e.place}") for e in items]
    return sorted(named, key=lambda item: (item.part or ("", 0), item.dataset, item.speaker or "", item.place))


def size_and_time(path: Path) -> tuple[int, int]:
    """Size in bytes and time of change in ns; zeros for a missing file, which is rejected when it is prepared."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns
