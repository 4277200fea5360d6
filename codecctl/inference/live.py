"""Audio to packed frames and back through pipes, each frame as soon as it is complete.

The frames follow the header of a packed file whose number of samples is `STREAMED`. All numbers are little-endian:

| bytes | frame | end mark |
|---|---|---|
| 1 | `F` | `E` |
| 2 | number of the frame, modulo 65536 | 0 |
| ceil(bits of a frame / 8), or 8 | its codes, as in a packed file | number of samples |
| 2 | CRC-16 (CCITT) of the fingerprint and the bytes before | the same |
"""

from __future__ import annotations

import binascii
import statistics
import struct
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np
import torch

from codecctl.audio import Audio
from codecctl.audio.containers import MISCOUNTED_BYTES, is_live_size
from codecctl.audio.files import check_sound, to_pcm16
from codecctl.audio.low_delay import LowDelayResampler, can_resample
from codecctl.audio.opening import say_cut_off
from codecctl.audio.resample import Resampler
from codecctl.bitstream import STREAMED, Codes, PackedHeader, pack_codes, read_header, unpack_codes
from codecctl.errors import CodecctlError
from codecctl.inference.container import CodesFormat
from codecctl.inference.containers import check_model

if TYPE_CHECKING:
    from codecctl.inference.load import Codec

_READ_BYTES = 65536  # at most; a pipe gives what it has
_UNKNOWN_SIZE = 0xFFFFFFFF  # in a WAV header: until the end of the pipe
_LONGEST_GAP = 50  # frames: concealment is silent long before
_LATEST = 3000  # frames that one may come behind its place, which was concealed; a number further back is that of a gap
_LARGEST_CHUNK = 2**20  # bytes before the samples of a WAV


@dataclass
class Live:
    """What went through a pipe so far."""

    n_frames: int = 0
    n_lost: int = 0  # frames
    n_late: int = 0  # frames that came behind their place, or twice
    is_open: bool = False  # the header was written
    n_samples: int = 0  # at the codec's rate
    is_complete: bool = False  # the end mark was written or seen
    delays: deque[float] = field(default_factory=lambda: deque(maxlen=1000))
    """Seconds from each input to its output."""

    @property
    def median_delay_ms(self) -> float:
        return 1000 * statistics.median(self.delays) if self.delays else 0.0


class _Samples(NamedTuple):
    """How samples stand in a pipe."""

    rate: int  # Hz
    n_channels: int
    kind: str  # of numpy
    scale: float  # full scale
    n_bytes: int | None = None  # that a header claims


def encode_live(
    codec: Codec,
    source: BinaryIO,
    sink: BinaryIO,
    live: Live,
    *,
    rate: int | None = None,
    n_channels: int = 1,
    n_quantizers: int | None = None,
) -> None:
    """Encode a WAV, or with `rate` raw 16-bit samples, until the end of `source` or Ctrl-C, which ends the stream too.

    Raises `CodecctlError` if `source` is no WAV, ends before the length in its header, or holds samples that are NaN,
    infinite or far beyond full scale; what precedes them is written.
    """
    header = PackedHeader(**CodesFormat.of(codec, n_quantizers).named(), n_samples=STREAMED)
    samples = _Samples(rate, n_channels, "<i2", 2**15) if rate else _read_wav_header(source)
    resampler, lag = _resampler(samples.rate, codec.sample_rate)
    encoder = codec.stream_encoder(n_quantizers=n_quantizers, traced=True)
    sink.write(header.to_bytes())
    sink.flush()
    live.is_open = True

    def send(codes: torch.Tensor) -> None:
        for frame in codes[0].cpu().numpy().astype(np.uint16).T:
            sink.write(_record(header, b"F", live.n_frames, pack_codes(frame[:, None], header.bits)))
            live.n_frames += 1
            live.n_samples = live.n_frames * codec.hop_length
        sink.flush()

    try:
        for block in _blocks(source, samples):
            started, n_frames = time.perf_counter(), live.n_frames
            send(encoder.push(torch.from_numpy(resampler.push(block))[None]))
            if live.n_frames > n_frames:
                live.delays.append(lag + time.perf_counter() - started)
    finally:  # on Ctrl-C too
        send(encoder.push(torch.from_numpy(resampler.flush())[None]))
        send(encoder.flush())
        live.n_samples = encoder.n_samples
        sink.write(_record(header, b"E", 0, struct.pack("<Q", live.n_samples)))
        sink.flush()
        live.is_complete = True


def decode_live(codec: Codec, source: BinaryIO, sink: BinaryIO, live: Live) -> None:
    """Decode packed frames to a WAV of whole frames until their end mark or the end of `source`.

    Bytes that are no intact frame are skipped, as are frames that come behind their place or twice. Frames that are
    missing by the numbers of the others count in `live.n_lost` and are concealed, at most `_LONGEST_GAP` in a gap.
    Raises `CodecctlError` if `source` does not begin with the header of a stream of this model.
    """
    header = read_header(source, "stdin")
    if header.n_samples != STREAMED:
        raise CodecctlError("stdin: a packed file, not a stream; decode it without --stream")
    check_model(header, "stdin", CodesFormat.of(codec))
    decoder = codec.stream_decoder(traced=True)
    sink.write(wav_header(codec.sample_rate, None))
    sink.flush()
    live.is_open = True
    rest = b""

    def send(audio: torch.Tensor) -> None:
        sink.write(to_pcm16(audio[0].float().cpu().numpy()).astype("<i2").tobytes())
        sink.flush()
        live.n_samples += audio.shape[-1]

    while not live.is_complete and (data := _read(source)):
        started = time.perf_counter()
        rest, frames = _intact_frames(header, rest + data, live)
        if frames:
            lost = torch.tensor([[frame is None for frame in frames]])
            nothing = np.zeros((len(header.bits), 1), np.uint16)
            codes = np.concatenate([nothing if frame is None else frame for frame in frames], axis=1).astype(np.int64)
            send(decoder.push(torch.from_numpy(codes)[None], lost))
            live.delays.append(codec.config.delay / codec.sample_rate + time.perf_counter() - started)
    send(decoder.flush())


def _resampler(from_rate: int, to_rate: int) -> tuple[Resampler | LowDelayResampler, float]:
    """And the seconds from a sample to the output at its time."""
    if from_rate == to_rate or not can_resample(from_rate, to_rate):
        return Resampler(from_rate, to_rate), 0.0
    resampler = LowDelayResampler(from_rate, to_rate)
    return resampler, resampler.lag_seconds


def wav_header(sample_rate: int, n_samples: int | None) -> bytes:
    """Of a WAV of 16 bits, mono; None: it ends with the pipe."""
    n_bytes = _UNKNOWN_SIZE - 36 if n_samples is None else 2 * n_samples
    # PCM, mono, samples and bytes a second, bytes and bits a sample
    form = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    riff = b"RIFF" + struct.pack("<I", 36 + n_bytes) + b"WAVE"
    return riff + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", n_bytes)


def _record(header: PackedHeader, kind: bytes, number: int, content: bytes) -> bytes:
    record = kind + struct.pack("<H", number % 2**16) + content
    return record + struct.pack("<H", binascii.crc_hqx(bytes.fromhex(header.fingerprint) + record, 0))


def _intact_frames(header: PackedHeader, data: bytes, live: Live) -> tuple[bytes, list[Codes | None]]:
    """The bytes that are left over, and the codes `[K, 1]` of the intact frames before them, up to the end mark; None
    for a frame that is missing."""
    sizes = {b"F": -(-sum(header.bits) // 8), b"E": 8}
    at: int = 0
    frames: list[Codes | None] = []
    while at < len(data) and not live.is_complete:
        kind = data[at : at + 1]
        if kind not in sizes:
            at += 1
            continue
        end = at + 3 + sizes[kind] + 2
        if end > len(data):
            break
        number, content = int.from_bytes(data[at + 1 : at + 3], "little"), data[at + 3 : end - 2]
        if data[at:end] != _record(header, kind, number, content):
            at += 1
            continue
        at = end
        n_seen = live.n_frames + live.n_lost
        if kind == b"F" and 0 < (n_seen - number) % 2**16 <= min(n_seen, _LATEST):
            live.n_late += 1
            continue
        if kind == b"F":
            n_missing = (number - n_seen) % 2**16
            codes = [unpack_codes(content, header.bits, 1)]
        else:
            n_missing = max(0, -(-int.from_bytes(content, "little") // header.hop_length) - n_seen)
            codes = []
            live.is_complete = True
        live.n_lost += n_missing
        live.n_frames += len(codes)
        frames += [*[None] * min(n_missing, _LONGEST_GAP), *codes]
    return data[at:], frames


def _read(source: BinaryIO) -> bytes:
    """What the pipe has, at least one byte; empty at its end."""
    read: bytes = getattr(source, "read1", source.read)(_READ_BYTES)
    return read


def _blocks(source: BinaryIO, samples: _Samples) -> Iterator[Audio]:
    """Mono `[1, L]` as it comes; what follows the claimed length is passed over. Raises `CodecctlError` if it is less,
    or no sound."""
    n_bytes, rest, n_read = np.dtype(samples.kind).itemsize * samples.n_channels, b"", 0
    while data := _read(source):
        if samples.n_bytes is not None:
            data = data[: max(0, samples.n_bytes - n_read)]
        n_read += len(data)
        data = rest + data
        n_whole = len(data) - len(data) % n_bytes
        rest = data[n_whole:]
        values = np.frombuffer(data[:n_whole], samples.kind).reshape(-1, samples.n_channels)
        if samples.kind == "<f4":
            check_sound(values, n_read // n_bytes - len(values), samples.rate, "stdin")
        yield (values.mean(axis=1, dtype=np.float64) / samples.scale).astype(np.float32)[None]
    if samples.n_bytes is not None and samples.n_bytes - n_read > MISCOUNTED_BYTES:
        n_second = n_bytes * samples.rate
        raise CodecctlError(f"stdin: {say_cut_off(n_read / n_second, samples.n_bytes / n_second)}")


def _read_wav_header(source: BinaryIO) -> _Samples:
    """Up to the first sample. Raises `CodecctlError` for anything else than a WAV of 16 or 32 bits, or floats."""
    start = source.read(12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        raise CodecctlError("stdin: not a WAV; name the rate of raw 16-bit samples with --rate")
    samples = None
    while len(head := source.read(8)) == 8:
        size = int.from_bytes(head[4:], "little")
        if head[:4] == b"data" or size > _LARGEST_CHUNK:
            break
        content = source.read(size + size % 2)
        if head[:4] == b"fmt " and len(content) >= 16:
            samples = _wav_samples(content)
    if samples is None or head[:4] != b"data":
        raise CodecctlError("stdin: a WAV whose header is damaged, or not of 16-bit, 32-bit or float samples")
    return samples if is_live_size(size) else samples._replace(n_bytes=size)


def _wav_samples(form: bytes) -> _Samples | None:
    kind, n_channels, rate, _, _, n_bits = struct.unpack_from("<HHIIHH", form)
    if kind == 0xFFFE and len(form) >= 26:  # the kind stands further behind
        kind = int.from_bytes(form[24:26], "little")
    numbers = {(1, 16): ("<i2", 2.0**15), (1, 32): ("<i4", 2.0**31), (3, 32): ("<f4", 1.0)}
    if (kind, n_bits) not in numbers or not 1 <= n_channels <= 64 or not 4000 <= rate <= 768_000:
        return None
    return _Samples(rate, n_channels, *numbers[kind, n_bits])
