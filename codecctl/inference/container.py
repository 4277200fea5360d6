"""What a kind of file for codes is. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codecctl.errors import CodecctlError, UsageError

if TYPE_CHECKING:
    from codecctl.bitstream import Codes
    from codecctl.inference.load import Codec

FRAMES_PER_CHUNK = 250  # what goes through the model at a time


@dataclass(frozen=True)
class CodesFormat:
    """The codec that codes belong to."""

    fingerprint: str | None  # None: the codec was not loaded from a file
    sample_rate: int  # Hz
    hop_length: int  # samples per frame
    codebook_sizes: tuple[int, ...]  # of the codebooks used

    @classmethod
    def of(cls, codec: Codec, n_quantizers: int | None = None) -> CodesFormat:
        sizes = codec.config.quantizer.codebook_sizes[:n_quantizers]
        return cls(codec.fingerprint, codec.sample_rate, codec.hop_length, sizes)

    def named(self) -> dict[str, Any]:
        """All fields. Raises `UsageError` without a fingerprint."""
        if self.fingerprint is None:
            raise UsageError("packed codes name their model, and this codec has no fingerprint; use Codec.load(file)")
        return vars(self)


@dataclass(frozen=True)
class StoredCodes:
    """A checked file of codes, ready to be decoded."""

    n_quantizers: int
    n_samples: int  # of the audio that is decoded from them
    blocks: Iterable[Codes]  # each [K, t]


class CodesWriter(Protocol):
    """Appends codes `[K, t]` to a file that appears when the `with` block ends without an error."""

    n_samples: int | None  # of the audio, at the codec's rate; set before the block ends

    def write(self, codes: Codes) -> None: ...


@dataclass(frozen=True)
class Container:
    """One row of `CONTAINERS`. Paths come with the name for messages, and what is raised is a `CodecctlError`."""

    recognise: Callable[[bytes], bool]  # by the first bytes of a file
    create: Callable[[Path, CodesFormat], AbstractContextManager[CodesWriter]]
    open: Callable[[Path, str, CodesFormat], AbstractContextManager[StoredCodes]]
    describe: Callable[[Path, str], dict[str, Any]]  # facts for JSON, `kind` first


def check_fingerprint(stated: str, name: str, ours: str | None) -> None:
    """Raises `CodecctlError` unless codes that state this fingerprint are of our codec."""
    if stated != ours:
        raise CodecctlError(
            f"{name}: made by the model {stated}, but the given one is {ours}; "
            f"pass --checkpoint with the one for which `codecctl info` shows {stated}"
        )


def first_bytes(path: Path, name: str) -> bytes:
    """The start of a file, by which it is recognised. Raises `CodecctlError` if there is no file or it is empty."""
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise CodecctlError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise CodecctlError(f"{name}: is a folder, expected a file") from None
    except OSError as error:  # one raised by reading lacks the name
        raise CodecctlError(f"{name}: {error.strerror}") from None
    if not start:
        raise CodecctlError(f"{name}: is empty")
    return start
