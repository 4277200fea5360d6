"""Audio files of any length, rate and channels to files of codes and back, in constant memory."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from codecctl.audio import Audio
from codecctl.audio.files import AudioInfo, AudioReader, AudioWriter, to_pcm16
from codecctl.audio.resample import Resampler
from codecctl.errors import CodecctlError, UsageError
from codecctl.inference.container import FRAMES_PER_CHUNK, CodesFormat, StoredCodes, first_bytes
from codecctl.inference.containers import CONTAINERS, recognise
from codecctl.inference.live import wav_header
from codecctl.inference.outputs import check_output
from codecctl.inference.stream import StreamDecoder, StreamEncoder

if TYPE_CHECKING:
    from codecctl.inference.load import Codec

_LARGEST_WAV_SAMPLES = (2**32 - 1 - 36) // 2  # its sizes are 32 bits wide


@dataclass(frozen=True)
class Decoded:
    """The result of decoding one file of codes."""

    n_samples: int  # at the codec's rate
    sample_rate: int  # the codec's, Hz
    n_quantizers: int
    compute_seconds: float  # reading and resampling included

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        return self.compute_seconds / self.seconds


@dataclass(frozen=True)
class Encoded(Decoded):
    """The result of encoding one audio file."""

    source: AudioInfo
    n_frames: int
    bits_per_frame: int  # of the codebooks used

    @property
    def bitrate_kbps(self) -> float:
        """Of the codes alone."""
        return self.n_frames * self.bits_per_frame / self.seconds / 1000


def encode_file(
    codec: Codec,
    path: str | Path,
    output: str | Path,
    *,
    n_quantizers: int | None = None,
    name: str | None = None,
    partial: bool = False,
) -> Encoded:
    """Mix down, resample and encode an audio file in constant memory, to `.npy` (uint16 `[K, T]`) or to the packed
    `.cctl`, by the suffix of `output`.

    `name` is the file's name in messages; `partial` takes what is there of a file that is cut off. The output appears
    when it is complete. Raises `UsageError` for an output that cannot be written as asked, `CodecctlError` for a file
    that cannot be read as audio.
    """
    output = Path(output)
    check_output(output, CONTAINERS, inputs=[path])
    codec.check_n_quantizers(n_quantizers)
    create = CONTAINERS[output.suffix.lower()].create
    started = time.perf_counter()
    with (
        _naming(output),
        create(output, CodesFormat.of(codec, n_quantizers)) as writer,
        AudioReader(path, name=name, partial=partial) as reader,
    ):
        stream, resampler = StreamEncoder(codec, n_quantizers), Resampler(reader.sample_rate, codec.sample_rate)

        def write(codes: torch.Tensor) -> None:
            writer.write(codes[0].cpu().numpy().astype(np.uint16))

        for block in reader.blocks(FRAMES_PER_CHUNK / codec.frame_rate):
            write(stream.push(torch.from_numpy(resampler.push(reader.to_mono(block)))[None]))  # [1, 1, L]
        write(stream.push(torch.from_numpy(resampler.flush())[None]))
        write(stream.flush())
        writer.n_samples = n_samples = stream.n_samples
        if not n_samples:
            raise CodecctlError(f"{reader.name}: holds no audio before the damage")
        seconds, bits = time.perf_counter() - started, codec.config.bits_per_code[:n_quantizers]
        n_frames = codec.n_frames(n_samples)
        return Encoded(n_samples, codec.sample_rate, len(bits), seconds, reader.info, n_frames, sum(bits))


def decode_file(codec: Codec, path: str | Path, output: str | Path | BinaryIO, *, name: str | None = None) -> Decoded:
    """Decode a file of codes in constant memory to a WAV or FLAC by the suffix of `output`, or to a stream as WAV.

    The audio of a packed file is as long as the encoded audio (at the codec's rate); `.npy` gives whole frames. A file
    appears when it is complete; nothing is written to a stream before all codes are checked. Raises `CodecctlError` for
    damaged codes or codes of another model.
    """
    started = time.perf_counter()
    if isinstance(output, str | Path):
        output = Path(output)
        check_output(output, (".wav", ".flac"), inputs=[path])
    path, name = Path(path), name or str(path)
    container = recognise(first_bytes(path, name))
    if container is None:
        raise CodecctlError(f"{name}: neither packed codes (.cctl) nor an array (.npy); `codecctl encode` makes both")
    with container.open(path, name, CodesFormat.of(codec)) as stored:
        write_decoded(codec, stored, output, name=name)
        return Decoded(stored.n_samples, codec.sample_rate, stored.n_quantizers, time.perf_counter() - started)


def write_decoded(codec: Codec, stored: StoredCodes, output: Path | BinaryIO, *, name: str) -> None:
    """As `decode_file`, of checked codes; `name` stands for them in messages."""
    is_flac = isinstance(output, Path) and output.suffix.lower() == ".flac"
    if stored.n_samples > _LARGEST_WAV_SAMPLES and not is_flac:
        raise UsageError(f"{name}: {stored.n_samples} samples are more than a WAV can hold; use -o NAME.flac")
    audio = _decoded_blocks(codec, stored)
    if isinstance(output, Path):
        with _naming(output), AudioWriter(output, codec.sample_rate) as writer:
            for block in audio:
                writer.write(block)
    else:
        output.write(wav_header(codec.sample_rate, stored.n_samples))  # known: a stream cannot seek
        for block in audio:
            output.write(to_pcm16(block).astype("<i2").tobytes())
        output.flush()


def _decoded_blocks(codec: Codec, stored: StoredCodes) -> Iterator[Audio]:
    """`[1, L]` blocks, n_samples in all. Raises `CodecctlError` if the model's output is not finite."""
    stream = StreamDecoder(codec)
    n_left = stored.n_samples
    pushed = (stream.push(torch.from_numpy(codes.astype(np.int64))[None]) for codes in stored.blocks)
    for block in itertools.chain(pushed, (stream.flush() for _ in range(1))):
        audio = block[0, :, :n_left]  # [1, L]
        if not audio.isfinite().all():
            raise CodecctlError("the model decodes these codes to NaN or infinite samples; its checkpoint is broken")
        n_left -= audio.shape[-1]
        yield audio.float().cpu().numpy()


@contextlib.contextmanager
def _naming(output: Path) -> Iterator[None]:
    """Give a full disk and the like the name of the output in place of that of its unfinished file."""
    try:
        yield
    except OSError as error:
        error.filename = str(output)
        raise
