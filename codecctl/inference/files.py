"""Audio files of any length, rate and channels to files of codes and back, in constant memory."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from codecctl.audio import Audio
from codecctl.audio.files import AudioInfo, AudioReader, AudioWriter, to_pcm16
from codecctl.audio.resample import Resampler
from codecctl.bitstream import Codes
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
class Encoded:
    """The result of encoding one audio file."""

    source: AudioInfo
    n_samples: int  # at the codec's rate
    sample_rate: int  # the codec's, Hz
    n_frames: int
    bits_per_frame: int  # of the codebooks used
    n_quantizers: int
    compute_seconds: float  # reading and resampling included

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def bitrate_kbps(self) -> float:
        """Of the codes alone."""
        return self.n_frames * self.bits_per_frame / self.seconds / 1000

    @property
    def real_time_factor(self) -> float:
        return self.compute_seconds / self.seconds


@dataclass(frozen=True)
class Decoded:
    """The result of decoding one file of codes."""

    n_samples: int
    sample_rate: int  # Hz
    n_quantizers: int
    compute_seconds: float

    @property
    def seconds(self) -> float:
        return self.n_samples / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        return self.compute_seconds / self.seconds


def encode_blocks(
    codec: Codec,
    path: str | Path,
    sink: Callable[[Codes], object],
    *,
    n_quantizers: int | None,
    name: str | None,
    partial: bool,
) -> Encoded:
    """Mix down, resample and encode an audio file in constant memory; `sink` is called with codes, uint16 `[K, t]`.

    `name` is the file's name in messages; `partial` takes what is there of a file that is cut off. Raises
    `CodecctlError` for a file that cannot be read as audio.
    """
    started = time.perf_counter()
    stream = StreamEncoder(codec, n_quantizers)
    n_frames = 0

    def send(codes: torch.Tensor) -> None:
        nonlocal n_frames
        n_frames += codes.shape[-1]
        sink(codes[0].cpu().numpy().astype(np.uint16))

    with AudioReader(path, name=name, partial=partial) as reader:
        resampler = Resampler(reader.sample_rate, codec.sample_rate)
        for block in reader.blocks(FRAMES_PER_CHUNK / codec.frame_rate):
            send(stream.push(torch.from_numpy(resampler.push(reader.to_mono(block)))[None]))  # [1, 1, L]
        send(stream.push(torch.from_numpy(resampler.flush())[None]))
        send(stream.flush())
        sizes = codec.config.quantizer.codebook_sizes[:n_quantizers]
        bits = sum(codec.config.bits_per_code[:n_quantizers])
        seconds = time.perf_counter() - started
        return Encoded(reader.info, stream.n_samples, codec.sample_rate, n_frames, bits, len(sizes), seconds)


def encode_file(
    codec: Codec,
    path: str | Path,
    output: Path,
    *,
    n_quantizers: int | None = None,
    name: str | None = None,
    partial: bool = False,
) -> Encoded:
    """Encode an audio file to `.npy` (uint16 `[K, T]`) or to the packed `.cctl`, by the suffix of `output`.

    The output appears when it is complete. Raises `UsageError` for an output that cannot be written as asked.
    """
    check_output(output, CONTAINERS, inputs=[path])
    codec.check_n_quantizers(n_quantizers)
    container = CONTAINERS[output.suffix.lower()]
    with _naming(output), container.create(output, CodesFormat.of(codec, n_quantizers)) as writer:
        encoded = encode_blocks(codec, path, writer.write, n_quantizers=n_quantizers, name=name, partial=partial)
        writer.n_samples = encoded.n_samples
    return encoded


def decode_file(codec: Codec, path: str | Path, output: Path | BinaryIO, *, name: str | None = None) -> Decoded:
    """Decode a file of codes in constant memory to a WAV or FLAC by the suffix of `output`, or to a stream as WAV.

    The audio of a packed file is as long as the encoded audio (at the codec's rate); `.npy` gives whole frames. A file
    appears when it is complete; nothing is written to a stream before all codes are checked. Raises `CodecctlError` for
    damaged codes or codes of another model.
    """
    started = time.perf_counter()
    if isinstance(output, Path):
        check_output(output, (".wav", ".flac"), inputs=[path])
    with open_codes(codec, path, name=name) as stored:
        write_decoded(codec, stored, output, name=name or str(path))
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


def open_codes(
    codec: Codec, path: str | Path, *, name: str | None = None
) -> contextlib.AbstractContextManager[StoredCodes]:
    """A file of codes, recognised by its first bytes and checked from end to end: it is intact and fits this codec.

    Raises `CodecctlError` if not.
    """
    path, name = Path(path), name or str(path)
    container = recognise(first_bytes(path, name))
    if container is None:
        raise CodecctlError(f"{name}: neither packed codes (.cctl) nor an array (.npy); `codecctl encode` makes both")
    return container.open(path, name, CodesFormat.of(codec))


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
