"""What a container for the codes of a corpus is, and what stands in the header of each of its shards."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from codecctl.bitstream import Codes, check_codes
from codecctl.codes.folder import About, Coded, CodesModel
from codecctl.config.model import Count
from codecctl.errors import CodecctlError
from codecctl.parsing import as_type, parse_json

FACTS = (
    "id", "dataset", "language", "speaker", "licence", "text", "split", "n_frames", "n_samples", "seconds",
)  # fmt: skip
"""Keys of the manifest that containers for other programs keep with each utterance."""


class ShardHeader(CodesModel):
    """The model that made a shard, and what its codes are compared with."""

    n_utterances: Count
    n_frames: Count
    checksum: str  # CRC32 of the codes as little-endian uint16: utterance by utterance, frame by frame

    @classmethod
    def of(cls, about: About, codes: Sequence[Codes]) -> ShardHeader:
        n_frames, checksum = sum(each.shape[1] for each in codes), _checksum(codes)
        model = about.model_dump(include=set(CodesModel.model_fields))
        return cls(**model, n_utterances=len(codes), n_frames=n_frames, checksum=checksum)

    @classmethod
    def parse(cls, text: str | bytes | None, path: Path) -> ShardHeader:
        """Raises `CodecctlError` for what is no header."""
        if text is None:
            raise damaged(path, "it has no header of codecctl")
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


@contextmanager
def reading(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Within: what the system and a library raise for a shard that is missing or damaged becomes a `CodecctlError`."""
    expected: tuple[type[Exception], ...] = (OSError, ValueError, *errors)
    try:
        yield
    except FileNotFoundError:
        raise CodecctlError(f"{path}: is missing; run the same `codecctl encode` again") from None
    except expected as error:
        raise damaged(path, " ".join(str(error).split())) from None


def check_model(path: Path, header: ShardHeader, about: About) -> None:
    """Raises `CodecctlError` unless a shard is of the model of its folder."""
    if header.fingerprint != about.fingerprint:
        raise CodecctlError(
            f"{path}: made by the model {header.fingerprint}, but its folder holds codes of {about.fingerprint}"
        )


def check_shard(path: Path, header: ShardHeader, codes: Sequence[Codes], about: About) -> None:
    """Raises `CodecctlError` unless the codes are intact and of the model of their folder."""
    check_model(path, header, about)
    if (header.n_utterances, header.checksum) != (len(codes), _checksum(codes)):
        raise damaged(path, "its checksum does not fit its codes")
    if codes:
        check_codes(np.concatenate(codes, axis=1), about.codebook_sizes, name=str(path))


def _checksum(codes: Iterable[Codes]) -> str:
    crc = 0
    for each in codes:
        crc = zlib.crc32(np.ascontiguousarray(each.T, "<u2").data, crc)
    return f"{crc:08x}"
