"""What a container for the codes of a corpus is, and what stands in the header of each of its shards."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from codecctl.bitstream import Codes, check_codes
from codecctl.codes.folder import About, Coded, Fingerprint, Sizes
from codecctl.config.model import Count, Positive, Section
from codecctl.errors import CodecctlError
from codecctl.inference.container import CodesFormat
from codecctl.parsing import as_type, parse_json

FACTS = (
    "id", "dataset", "language", "speaker", "licence", "text", "split", "n_frames", "n_samples", "seconds",
)  # fmt: skip
"""Keys of the manifest that containers for other programs keep with each utterance."""


class ShardHeader(Section):
    """The model that made a shard, and what its codes are compared with."""

    format: Literal["codecctl.codes"] = "codecctl.codes"
    version: Literal[1] = 1
    fingerprint: Fingerprint
    sample_rate: Positive
    hop_length: Positive
    codebook_sizes: Sizes
    n_utterances: Count
    n_frames: Count
    checksum: str  # CRC32 of the codes as little-endian uint16: utterance by utterance, frame by frame

    @classmethod
    def of(cls, form: CodesFormat, codes: Sequence[Codes]) -> ShardHeader:
        return cls(
            fingerprint=form.fingerprint or "",
            sample_rate=form.sample_rate,
            hop_length=form.hop_length,
            codebook_sizes=form.codebook_sizes,
            n_utterances=len(codes),
            n_frames=sum(each.shape[1] for each in codes),
            checksum=_checksum(codes),
        )

    @classmethod
    def parse(cls, text: str | bytes, path: Path) -> ShardHeader:
        """Raises `CodecctlError` for what is no header."""
        return as_type(cls, parse_json(text, str(path)), str(path))


@dataclass(frozen=True)
class ShardContainer:
    """One row of `CONTAINERS`. What is raised is a `CodecctlError`, `UsageError` for a package that is missing."""

    suffix: str
    write: Callable[[Path, ShardHeader, Sequence[Coded]], None]
    read: Callable[[Path], tuple[ShardHeader, list[Codes]]]  # each [K, T]
    check_installed: Callable[[], None] = lambda: None


def damaged(path: Path, why: str) -> CodecctlError:
    return CodecctlError(f"{path}: damaged ({why}); remove it and run the same `codecctl encode` again")


def check_shard(path: Path, header: ShardHeader, codes: Sequence[Codes], about: About) -> None:
    """Raises `CodecctlError` unless the codes are intact and of the model of their folder."""
    if header.fingerprint != about.fingerprint:
        raise CodecctlError(
            f"{path}: made by the model {header.fingerprint}, but its folder holds codes of {about.fingerprint}"
        )
    if (header.n_utterances, header.checksum) != (len(codes), _checksum(codes)):
        raise damaged(path, "its checksum does not fit its codes")
    if codes:
        check_codes(np.concatenate(codes, axis=1), about.codebook_sizes, name=str(path))


def _checksum(codes: Iterable[Codes]) -> str:
    crc = 0
    for each in codes:
        crc = zlib.crc32(np.ascontiguousarray(each.T, "<u2").data, crc)
    return f"{crc:08x}"
