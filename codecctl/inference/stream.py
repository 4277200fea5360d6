"""Streams: audio chunks of any size to codes and back. The result does not depend on the chunk sizes.

All work on the state is in inference mode, which a single frame is faster in, and whose tensors can be written in it
only; callers get copies, which are what their own mode makes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from codecctl.errors import UsageError
from codecctl.inference.concealment import Concealment
from codecctl.inference.traced import is_traceable, shared_step
from codecctl.model.causal import StreamState

if TYPE_CHECKING:
    from codecctl.model.codec import Codec

_LATENTS_FADE = 0.9  # a frame, of those that stand for lost frames


class StreamEncoder:
    """Encodes a batch of streams of audio; any number of them share a model, each with a state of its own.

    Latency is `frames_per_push` frames: codes are returned with the last sample of so many, which is cheaper than one
    by one, and less than that is buffered. Memory does not grow with the stream.

    `traced`: on the CPU so many frames take about half the time, and making the first such encoder of a codec takes a
    second or two; others of its shape share its graph.
    """

    def __init__(
        self,
        codec: Codec,
        n_quantizers: int | None = None,
        batch_size: int = 1,
        frames_per_push: int = 1,
        traced: bool = False,
    ) -> None:
        codec.check_n_quantizers(n_quantizers)
        if batch_size < 1 or frames_per_push < 1:
            raise UsageError(f"batch_size {batch_size}, frames_per_push {frames_per_push}: both must be 1 or more")
        self._codec = codec
        self._n_quantizers = n_quantizers
        self._n_together = frames_per_push * codec.hop_length
        self._parameter = next(codec.parameters())  # of the codec's device and precision
        self._batch_size = batch_size
        self._start()

        def step(chunk: Tensor, state: StreamState) -> Tensor:
            return codec.quantize(codec.encode_latents(chunk, state=state), n_quantizers)

        example = self._parameter.new_zeros(batch_size, 1, self._n_together)
        name, parts = f"encode {n_quantizers}", [codec.encoder, codec.quantizer]
        self._step = shared_step(codec, name, step, parts, example) if traced and is_traceable(codec) else None

    def _start(self) -> None:
        self.n_samples = 0  # pushed so far, of each item
        self._state = StreamState()
        self._rest = self._parameter.new_zeros(self._batch_size, 1, 0)  # not encoded yet
        self._flushed = False

    def push(self, audio: Tensor) -> Tensor:
        """[B, 1, L], any L including 0 -> codes [B, K, t] of the frames completed by it, t a multiple of
        `frames_per_push`.

        Raises `UsageError` for another shape, and after `flush`.
        """
        return self._push(audio, self._n_together).clone()

    def flush(self) -> Tensor:
        """End the streams -> codes [B, K, t] of the rest, the last frame padded with zeros; t is 0 if there is none."""
        n_missing = -self._rest.shape[-1] % self._codec.hop_length
        codes = self._push(self._rest.new_zeros(self._batch_size, 1, n_missing), self._codec.hop_length)
        self.n_samples -= n_missing
        self._flushed = True
        return codes.clone()

    @torch.inference_mode()
    def reset(self, item: int | None = None) -> None:
        """A new stream starts in this item of the batch. What was pushed for the item and not encoded yet counts as
        silence before it, so that items stay in step; push whole frames, and there is none.

        None: new streams start in all items, also after `flush`; what was not encoded is dropped.
        """
        if item is None:
            self._start()
            return
        _check_item(item, self._batch_size, self._flushed)
        self._rest = self._rest.clone()
        self._rest[item] = 0
        self._state.reset(item)

    @torch.inference_mode()
    def _push(self, audio: Tensor, n_together: int) -> Tensor:
        """Encode as many multiples of `n_together` samples as there are."""
        _check_flushed(self._flushed)
        if audio.dim() != 3 or audio.shape[:2] != self._rest.shape[:2]:
            raise UsageError(f"audio must be [{self._batch_size}, 1, L] in this stream, got {list(audio.shape)}")
        audio = self._codec.check_audio(audio)
        self.n_samples += audio.shape[-1]
        audio = torch.cat([self._rest, audio.to(self._parameter)], dim=-1)
        n_whole = audio.shape[-1] - audio.shape[-1] % n_together
        self._rest = audio[..., n_whole:].clone()  # a view would keep the whole chunk alive
        audio = audio[..., :n_whole]
        if self._step is not None and self._step.takes(audio):
            return self._step(audio, self._state)
        return self._codec.encode(audio, n_quantizers=self._n_quantizers, state=self._state)


class StreamDecoder:
    """Decodes a batch of streams of codes: `hop_length` samples for each frame, less `config.delay` for the first,
    which `flush` returns at the end. Memory does not grow.

    Frames that did not arrive are concealed: the audio goes on as before, fades out in 100 ms, and goes over into the
    next frame that arrives. The decoder meanwhile advances with the latents of the last frame, faded.

    `traced`: on the CPU a single frame takes about half the time, and making the first such decoder of a codec takes a
    second or two; others of its shape share its graph.
    """

    def __init__(self, codec: Codec, batch_size: int = 1, traced: bool = False) -> None:
        self._codec = codec
        self._batch_size = batch_size
        self._device = codec.quantizer.codebooks[0].codewords.device
        self._start()

        def step(latents: Tensor, state: StreamState) -> Tensor:
            return codec.decode_latents(latents, state=state)

        def dequantize(codes: Tensor, _: StreamState) -> Tensor:
            return codec.dequantize(codes)

        self._step = self._dequantize = None
        if traced and is_traceable(codec):
            self._step = shared_step(codec, "decode", step, [codec.decoder], self._latents)
            all_codes = torch.zeros(batch_size, codec.n_codebooks, 1, dtype=torch.int64)
            self._dequantize = shared_step(codec, "dequantize", dequantize, [codec.quantizer], all_codes)

    def _start(self) -> None:
        config, like = self._codec.config, self._codec.quantizer.codebooks[0].codewords
        self._state = StreamState()
        self._n_early = config.delay  # samples before the signal that are still to come
        self._concealment = Concealment(self._batch_size, config.sample_rate, like)
        self._codes: Tensor | None = None  # of the last frame, whose latents are made when they are needed
        self._latents = like.new_zeros(self._batch_size, config.latent_width, 1)  # of the last frame
        self._lost = torch.zeros(self._batch_size, dtype=torch.bool, device=self._device)  # the last frame
        self._flushed = False

    def push(self, codes: Tensor | None, lost: Tensor | None = None) -> Tensor:
        """[B, K, t], any t including 0 -> [B, 1, t x hop_length], at first `config.delay` samples less.

        `lost` [B, t], booleans: frames that did not arrive; their codes are not used. None instead of codes: one frame,
        lost in every item. Raises `UsageError` for another shape, and after `flush`.
        """
        return self._push(codes, lost).clone()

    @torch.inference_mode()
    def _push(self, codes: Tensor | None, lost: Tensor | None) -> Tensor:
        _check_flushed(self._flushed)
        if codes is None:
            codes = torch.zeros(self._batch_size, 1, 1, dtype=torch.int64)
            lost = torch.ones(self._batch_size, 1, dtype=torch.bool)
        if codes.dim() != 3 or len(codes) != self._batch_size:
            raise UsageError(f"codes must be [{self._batch_size}, K, T] in this stream, got {list(codes.shape)}")
        codes = codes.to(self._device)
        if lost is not None:
            if lost.dtype != torch.bool or lost.shape != (self._batch_size, codes.shape[-1]):
                expected = [self._batch_size, codes.shape[-1]]
                raise UsageError(f"lost must be booleans {expected}, got {lost.dtype} {list(lost.shape)}")
            lost = lost.to(self._device, copy=True)  # the caller may write into its own
            codes = codes.long() if codes.dtype == torch.uint16 else codes  # which torch cannot fill
            codes = codes.masked_fill(lost[:, None], 0)
        if codes.shape[-1] and (self._concealment.is_active or (lost is not None and lost.any())):
            self._codec.check_codes(codes)  # all of them: those before a wrong one would be decoded
            lost = codes.new_zeros(self._batch_size, codes.shape[-1], dtype=torch.bool) if lost is None else lost
            frames = zip(torch.split(codes, 1, dim=-1), lost.unbind(dim=-1), strict=True)
            return self._from_start(torch.cat([self._frame(*frame) for frame in frames], dim=-1))
        audio = self._decode(codes)
        if codes.shape[-1]:
            self._codes = codes[..., -1:].clone()  # the caller may write into its own
            self._concealment.note(audio[:, 0])
        return self._from_start(audio)

    def _frame(self, codes: Tensor, lost: Tensor) -> Tensor:
        """[B, K, 1] and [B] -> [B, 1, hop_length]"""
        self._latents = torch.where(lost[:, None, None], _LATENTS_FADE * self._last(), self._latents_of(codes))
        with torch.autocast(self._device.type, enabled=False):
            audio = (self._step or self._codec.decode_latents)(self._latents, state=self._state)
        # The late samples are those of the frame before.
        late, audio = audio[:, 0].tensor_split([self._codec.config.delay], dim=-1)
        if late.shape[-1]:
            audio = torch.cat([self._concealment.fill(late, self._lost), self._concealment.fill(audio, lost)], dim=-1)
        else:
            audio = self._concealment.fill(audio, lost)
        self._lost = lost
        return audio[:, None]

    def _decode(self, codes: Tensor) -> Tensor:
        if self._step is None or codes.shape[-1] != 1:
            return self._codec.decode(codes, state=self._state)
        return self._step(self._latents_of(codes), self._state)

    def _latents_of(self, codes: Tensor) -> Tensor:
        """[B, K, 1] -> [B, D, 1]"""
        if self._dequantize is not None and self._dequantize.takes(codes) and codes.dtype == torch.int64:
            with contextlib.suppress(IndexError, RuntimeError):  # no such codeword: `check_codes` says which
                return self._dequantize(codes, StreamState())
        self._codec.check_codes(codes)
        return self._codec.dequantize(codes)

    def _last(self) -> Tensor:
        """[B, D, 1], the latents of the last frame."""
        if self._codes is not None:
            self._latents, self._codes = self._codec.dequantize(self._codes), None
        return self._latents

    def flush(self) -> Tensor:
        """End the stream -> [B, 1, config.delay], the samples that were late; most codecs have none."""
        return self._flush().clone()

    @torch.inference_mode()
    def _flush(self) -> Tensor:
        _check_flushed(self._flushed)
        codec, delay = self._codec, self._codec.config.delay
        nothing = next(codec.parameters()).new_zeros(self._batch_size, codec.config.latent_width, codec.n_frames(delay))
        late = codec.decode_latents(nothing, length=delay, state=self._state) if delay else nothing[:, :1]
        if delay and self._concealment.is_active:
            late = self._concealment.fill(late[:, 0], self._lost)[:, None]
        self._flushed = True
        return self._from_start(late)

    def _from_start(self, audio: Tensor) -> Tensor:
        """Less the samples that precede the signal."""
        n = min(self._n_early, audio.shape[-1])
        self._n_early -= n
        return audio[..., n:]

    @torch.inference_mode()
    def reset(self, item: int | None = None) -> None:
        """A new stream starts in this item of the batch; its first `config.delay` samples precede the signal.

        None: new streams start in all items, also after `flush`.
        """
        if item is None:
            self._start()
            return
        _check_item(item, self._batch_size, self._flushed)
        self._state.reset(item)
        self._concealment.reset(item)
        self._lost = self._lost.index_fill(0, torch.tensor(item, device=self._device), False)
        self._last()[item] = 0


def _check_flushed(flushed: bool) -> None:
    if flushed:
        raise UsageError("this stream was flushed and has ended; reset() starts a new one")


def _check_item(item: int, batch_size: int, flushed: bool) -> None:
    _check_flushed(flushed)
    if not 0 <= item < batch_size:
        raise UsageError(f"item {item}: this stream has the items 0 to {batch_size - 1}")
