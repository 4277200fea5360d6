"""The utterances that a codec is evaluated on: the validation split of prepared data, or a folder or file of audio."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from codecctl.audio.files import AudioReader
from codecctl.audio.resample import Resampler, resample
from codecctl.data import SAMPLE_RATE
from codecctl.data.crops import read_utterance, utterances
from codecctl.data.manifest import Utterance
from codecctl.data.prepare.sources import read_folder
from codecctl.errors import CodecctlError
from codecctl.text import to_bytes

MAX_CHUNK_SECONDS = 30.0


@dataclass(frozen=True)
class ReferenceUtterance:
    """One utterance and what is known of it; its samples are read when they are needed."""

    id: str
    dataset: str
    language: str | None  # None: unknown
    speaker: str | None  # None: unknown
    path: Path  # an audio file, or the prepared folder of `prepared`
    prepared: Utterance | None = None
    text: str | None = None  # the transcript; None: unknown

    def chunks(self, sample_rate: int) -> Iterator[Tensor]:
        """The whole utterance as float32 [1, L] at `sample_rate`, mono, in even chunks of at most 30 seconds.

        Raises `CodecctlError` for a file that cannot be read.
        """
        if self.prepared is None:
            yield from _read_file(self.path, sample_rate)
        else:
            yield from _split(read_utterance(self.path, self.prepared), sample_rate)


def find_utterances(data: str | Path) -> list[ReferenceUtterance]:
    """The validation split of a prepared folder, the audio of any other folder, or one file.

    Raises `CodecctlError` if there is none.
    """
    path = Path(data)
    if (path / "prepared.json").is_file():
        return [
            ReferenceUtterance(u.id, u.dataset, u.language, u.speaker, path, u, u.text)
            for u in utterances(path, "validation")
        ]
    if path.is_dir():
        return [
            ReferenceUtterance(item.id, item.dataset, item.language, item.speaker, path / item.place, text=item.text)
            for item in read_folder(path, path.resolve().name)
        ]
    if not path.is_file():
        raise CodecctlError(f"{path}: no such file or folder")
    return [ReferenceUtterance(path.stem, path.resolve().parent.name, None, None, path)]


def choose(utterances: Sequence[ReferenceUtterance], limit: int | None) -> list[ReferenceUtterance]:
    """At most `limit` utterances, the same ones every time: datasets, languages and speakers take turns, within a
    speaker a hash of the name decides. A larger limit keeps the choice of a smaller one."""
    if limit is None or limit >= len(utterances):
        return list(utterances)
    groups: dict[tuple[str, str, str], list[ReferenceUtterance]] = defaultdict(list)
    for utterance in sorted(utterances, key=lambda u: _hash(u.id)):
        groups[utterance.dataset, utterance.language or "", utterance.speaker or ""].append(utterance)
    queues = [groups[key] for key in sorted(groups, key=lambda key: _hash("/".join(key)))]
    rounds = (queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue))
    return [utterance for utterance, _ in zip(rounds, range(limit), strict=False)]


def _hash(name: str) -> bytes:
    return blake2b(to_bytes(name), digest_size=8).digest()


def _read_file(path: Path, sample_rate: int) -> Iterator[Tensor]:
    """The chunks of a file; memory does not grow with its length."""
    with AudioReader(path) as reader:
        n_chunks = math.ceil(reader.info.seconds / MAX_CHUNK_SECONDS)
        n_samples = -(-reader.info.n_samples // n_chunks)
        resampler = Resampler(reader.sample_rate, sample_rate)
        last: Tensor | None = None  # the resampler's last samples are added to it
        for block in reader.blocks(n_samples / reader.sample_rate):
            if last is not None:
                yield last
            last = torch.as_tensor(resampler.push(reader.to_mono(block)))
        rest = torch.as_tensor(resampler.flush())
        yield rest if last is None else torch.cat([last, rest], dim=-1)


def _split(audio: Tensor, sample_rate: int) -> Iterator[Tensor]:
    """The chunks of prepared audio [1, L] at 16 kHz."""
    n_chunks = math.ceil(audio.shape[-1] / (MAX_CHUNK_SECONDS * SAMPLE_RATE))
    for chunk in audio.tensor_split(n_chunks, dim=-1):
        yield torch.as_tensor(resample(chunk.numpy(), SAMPLE_RATE, sample_rate))
