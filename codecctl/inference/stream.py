"""Streams: audio chunks of any size to codes and back. The result does not depend on the chunk sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from codecctl.errors import UsageError
from codecctl.model.causal import StreamState
from codecctl.model.codec import Codec


class StreamEncoder:
    """Encodes one stream of audio; any number of streams share a model, each with a state of its own.

    Latency is one frame: a frame's codes are returned with its last sample, and less than one frame of samples is
    buffered. Memory does not grow with the stream.
    """

    def __init__(self, codec: Codec, n_quantizers: int | None = None, batch_size: int = 1) -> None:
        codec.check_n_quantizers(n_quantizers)
        self.n_samples = 0  # pushed so far, of each item
        self._codec = codec
        self._n_quantizers = n_quantizers
        self._state = StreamState()
        self._parameter = next(codec.parameters())  # of the codec's device and precision
        self._rest = self._parameter.new_zeros(batch_size, 1, 0)  # of the incomplete frame
        self._flushed = False

    @torch.no_grad()
    def push(self, audio: Tensor) -> Tensor:
        """[B, 1, L], any L including 0 -> codes [B, K, t] of the frames completed by it.

        Raises `UsageError` for another shape, and after `flush`.
        """
        if self._flushed:
            raise UsageError("this stream was flushed and has ended; start a new StreamEncoder")
        if audio.dim() != 3 or audio.shape[:2] != self._rest.shape[:2]:
            raise UsageError(f"audio must be [{len(self._rest)}, 1, L] in this stream, got {list(audio.shape)}")
        audio = self._codec.check_audio(audio)
        self.n_samples += audio.shape[-1]
        audio = torch.cat([self._rest, audio.to(self._parameter)], dim=-1)
        n_whole = audio.shape[-1] - audio.shape[-1] % self._codec.hop_length
        self._rest = audio[..., n_whole:].clone()  # a view would keep the whole chunk alive
        return self._codec.encode(audio[..., :n_whole], n_quantizers=self._n_quantizers, state=self._state)

    def flush(self) -> Tensor:
        """End the stream -> codes [B, K, 1] of the last frame, padded with zeros; [B, K, 0] if no samples are left."""
        n_missing = -self._rest.shape[-1] % self._codec.hop_length
        codes = self.push(self._rest.new_zeros(len(self._rest), 1, n_missing))
        self.n_samples -= n_missing
        self._flushed = True
        return codes


class StreamDecoder:
    """Decodes one stream of codes without delay: `hop_length` samples for each frame. Memory does not grow."""

    def __init__(self, codec: Codec, batch_size: int = 1) -> None:
        self._codec = codec
        self._batch_size = batch_size
        self._state = StreamState()
        self._device = next(codec.parameters()).device

    @torch.no_grad()
    def push(self, codes: Tensor) -> Tensor:
        """[B, K, t], any t including 0 -> [B, 1, t x hop_length]. Raises `UsageError` for another shape."""
        if len(codes) != self._batch_size:
            raise UsageError(f"codes must be [{self._batch_size}, K, T] in this stream, got {list(codes.shape)}")
        return self._codec.decode(codes.to(self._device), state=self._state)
