"""A corpus of codes: a folder of shards, with a manifest and an index of their utterances.

The folder holds `codes.json` (the model, the shards, whether it is complete), `manifest.jsonl` with a line for each
utterance, `failed.jsonl` with a line for each recording that could not be encoded, `shards/`, and `units/` (finished
work, for the next `encode`). With the container `shards` it has an index too, a structured, memory-mapped `.npy`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from codecctl.bitstream import Codes
from codecctl.config.model import Count, Positive, Section
from codecctl.data import Split
from codecctl.data.shards import Rows, map_rows, rows_name
from codecctl.data.tables import read_records
from codecctl.errors import CodecctlError
from codecctl.files import write_json
from codecctl.parsing import as_type, load_json

NAME = "codes.json"
SPLIT_NUMBERS: dict[str | None, int] = {None: 0, "train": 1, "validation": 2}
"""What stands for a split in the index."""
ROW = np.dtype([
    ("shard", "<u4"), ("row", "<u4"), ("first_frame", "<u8"), ("n_frames", "<u8"), ("n_samples", "<u8"),
    ("line", "<u8"), ("split", "u1"),
])  # fmt: skip
"""An utterance: its shard, its number and its first frame there, and the byte of the manifest where its line starts."""

_FILE = re.compile(r"(shards/)?[\w-][\w.-]*")


class CodesModel(Section):
    """The model that codes belong to."""

    format: Literal["codecctl.codes"] = "codecctl.codes"
    version: Literal[1] = 1
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
    sample_rate: Positive
    hop_length: Positive
    codebook_sizes: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=255)]  # of the codebooks used


class About(CodesModel):
    """`codes.json`. The last five keys are of the last complete run."""

    container: Literal["shards", "webdataset", "parquet"]
    is_complete: bool = False  # whether all recordings that were asked for are in it
    index: str | None = None  # a file in the folder; of the container `shards`
    shards: tuple[str, ...] = ()  # files in the folder
    n_utterances: Count = 0
    n_failed: Count = 0
    n_samples: Count = 0

    @property
    def n_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.hop_length

    @property
    def seconds(self) -> float:
        """Of all audio."""
        return self.n_samples / self.sample_rate


@dataclass(frozen=True)
class CodedUtterance:
    """One line of the manifest. None: unknown."""

    id: str
    source: str  # where the recording was, below the source's folder
    dataset: str
    language: str | None
    speaker: str | None
    licence: str | None
    text: str | None
    split: Split | None
    n_frames: Count
    n_samples: Count  # at the codec's rate
    seconds: float
    shard: str  # file in the folder
    row: Count  # number of the utterance in its shard


Coded = tuple[dict[str, Any], Codes]
"""What is known of an utterance, by the names of the manifest, and its codes, uint16 `[K, T]`."""


def is_corpus(folder: Path) -> bool:
    """Whether a folder holds codes of a corpus, complete or not."""
    return (folder / NAME).is_file()


def read_about(folder: Path) -> About:
    """`codes.json`. Raises `CodecctlError` if it is missing, damaged, or of another version."""
    path = folder / NAME
    missing = f"{folder}: holds no codes; make some with `codecctl encode DATA --out-dir DIR`"
    about = load_json(path, About, missing=missing, hint="encode into a new folder")
    if not all(map(_FILE.fullmatch, (*about.shards, *([about.index] if about.index else [])))):
        raise CodecctlError(f"{path}: names files that encode does not write; encode into a new folder")
    return about


def read_complete(folder: Path) -> About:
    """As `read_about`. Raises `CodecctlError` for a folder that is not complete."""
    about = read_about(folder)
    if not about.is_complete:
        raise CodecctlError(f"{folder}: is not complete; run the same `codecctl encode` again")
    return about


def write_about(folder: Path, about: About) -> None:
    write_json(folder / NAME, about.model_dump(mode="json"))


def read_manifest(folder: Path) -> Iterator[CodedUtterance]:
    """The utterances, in the order of the shards. Raises `CodecctlError` that names file and line."""
    for where, record in read_records(folder / "manifest.jsonl"):
        yield as_type(CodedUtterance, record, where)


def read_index(folder: Path, about: About) -> Rows:
    """The rows of the index, memory-mapped. Raises `CodecctlError` if there is none or it is damaged."""
    path = folder / (about.index or "")
    if about.index is None:
        raise CodecctlError(f"{folder}: written with --format {about.container}; encode with --format shards")
    rows = map_rows(path, redo="encode")
    if rows.dtype != ROW or rows.shape != (about.n_utterances,):
        raise CodecctlError(f"{path}: does not fit {NAME}; run encode again")
    if rows_name(rows) != path.name:
        raise CodecctlError(f"{path}: damaged; run encode again")
    return rows
