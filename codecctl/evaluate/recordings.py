"""On what a codec is measured: the validation split of a prepared folder, or any folder or file of audio."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import torch
from torch import Tensor

from codecctl.audio.files import Audio, AudioReader
from codecctl.audio.resample import Resampler
from codecctl.data.crops import read_utterance, utterances
from codecctl.data.manifest import SAMPLE_RATE, Utterance
from codecctl.data.prepare.folders import read_folder
from codecctl.errors import CodecctlError

LONGEST_PIECE_SECONDS = 30.0


@dataclass(frozen=True)
class Recording:
    """One recording and what is known of it; its samples are read when they are needed."""

    id: str
    dataset: str
    language: str | None  # None: unknown
    speaker: str | None  # None: unknown
    path: Path  # an audio file, or the prepared folder of `utterance`
    utterance: Utterance | None = None
    transcript: str | None = None  # None: unknown

    def pieces(self, sample_rate: int) -> Iterator[Tensor]:
        """float32 [1, L] at `sample_rate`, mono, each at most 30 seconds; together the whole recording.

        Raises `CodecctlError` for a file that is no sound audio.
        """
        if self.utterance is None:
            yield from _read_file(self.path, sample_rate)
        else:
            yield from _cut(read_utterance(self.path, self.utterance), sample_rate)


def find_recordings(data: str | Path) -> list[Recording]:
    """The validation split of a prepared folder, the audio of any other folder, or one file.

    Raises `CodecctlError` if there is none.
    """
    path = Path(data)
    if (path / "prepared.json").is_file():
        return [
            Recording(u.id, u.dataset, u.language, u.speaker, path, utterance=u, transcript=u.text)
            for u in utterances(path, "validation")
        ]
    if path.is_dir():
        return [
            Recording(e.id, e.dataset, e.language, e.speaker, path / e.place, transcript=e.text)
            for e in read_folder(path, path.resolve().name)
        ]
    if not path.is_file():
        raise CodecctlError(f"{path}: no such file or folder")
    return [Recording(path.stem, path.resolve().parent.name, None, None, path)]


def choose(recordings: Sequence[Recording], limit: int | None) -> list[Recording]:
    """At most `limit`, the same ones every time: the datasets, languages and speakers in turn, within a speaker by a
    hash of the name. What a smaller limit chooses, a larger one chooses too."""
    if limit is None or limit >= len(recordings):
        return list(recordings)
    groups: dict[tuple[str, str, str], list[Recording]] = defaultdict(list)
    for recording in sorted(recordings, key=lambda r: _shuffled(r.id)):
        groups[recording.dataset, recording.language or "", recording.speaker or ""].append(recording)
    queues = [groups[key] for key in sorted(groups, key=lambda key: _shuffled("/".join(key)))]
    rounds = (queue[turn] for turn in range(max(map(len, queues))) for queue in queues if turn < len(queue))
    return [recording for recording, _ in zip(rounds, range(limit), strict=False)]


def _shuffled(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()


def _read_file(path: Path, sample_rate: int) -> Iterator[Tensor]:
    """A file block by block: memory does not grow with its length."""
    with AudioReader(path) as reader:
        n_pieces = math.ceil(reader.info.seconds / LONGEST_PIECE_SECONDS)
        n_block = -(-reader.info.n_samples // n_pieces)
        resampler = Resampler(reader.sample_rate, sample_rate)
        blocks = (resampler.push(reader.to_mono(block)) for block in reader.blocks(n_block / reader.sample_rate))
        yield from _regroup(blocks, resampler)


def _regroup(blocks: Iterable[Audio], resampler: Resampler) -> Iterator[Tensor]:
    """The resampler's tail belongs to the last piece."""
    last: Tensor | None = None
    for block in blocks:
        if last is not None:
            yield last
        last = torch.as_tensor(block)
    rest = torch.as_tensor(resampler.flush())
    yield rest if last is None else torch.cat([last, rest], dim=-1)


def _cut(audio: Tensor, sample_rate: int) -> Iterator[Tensor]:
    """Prepared audio [1, L], 16 kHz, in even pieces."""
    n_pieces = math.ceil(audio.shape[-1] / (LONGEST_PIECE_SECONDS * SAMPLE_RATE))
    for piece in audio.tensor_split(n_pieces, dim=-1):
        resampler = Resampler(SAMPLE_RATE, sample_rate)
        parts = [resampler.push(piece.numpy()), resampler.flush()]
        yield torch.cat([torch.as_tensor(part) for part in parts], dim=-1)
