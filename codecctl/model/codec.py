"""The codec: samples to codes and back, for whole signals, batches of unequal length, and streams."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from codecctl.config.model import ModelConfig
from codecctl.errors import UsageError
from codecctl.model.causal import StreamState, with_channels_last
from codecctl.model.fronts.front import Front
from codecctl.model.fronts.refined import FRONT as REFINED
from codecctl.model.fronts.strided import FRONT as STRIDED
from codecctl.model.fronts.transform import FRONT as TRANSFORM
from codecctl.model.quantizer import ResidualVectorQuantizer

# By the `kind` of their section of the config. A new one is a file, a row here and a section there.
FRONTS: dict[str, Front] = {"strided": STRIDED, "transform": TRANSFORM, "refined": REFINED}
_CODE_TYPES = (torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64)


class CodecOutput(NamedTuple):  # wrappers for several devices pass tuples on, but no dataclasses
    audio: Tensor  # [B, 1, L] the reconstruction, as long as the input
    latents: Tensor  # [B, D, T] before the quantizer
    codes: Tensor  # [B, K, T]
    commitment_loss: Tensor  # [K]


class Codec(nn.Module):
    """Encoder, residual quantizer and decoder of a `ModelConfig`; causal: outputs depend on past samples only.

    `encode` is `quantize` of `encode_latents`, and `decode` is `decode_latents` of `dequantize`, with checked inputs.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self._front = FRONTS[config.front.kind]
        self.encoder = self._front.encoder(config)
        self.quantizer = ResidualVectorQuantizer(config.quantizer, config.latent_width)
        self.decoder = self._front.decoder(config)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return self.config.sample_rate

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.config.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.config.frame_rate

    @property
    def n_codebooks(self) -> int:
        return self.config.n_codebooks

    @property
    def bitrate_kbps(self) -> float:
        """Nominal, with all codebooks."""
        return self.config.bitrate_kbps

    def n_frames(self, n_samples: int) -> int:
        """Frames of a signal: the last one may be partly filled."""
        return -(-n_samples // self.hop_length)

    def forward(self, audio: Tensor, n_quantizers: Tensor | None = None) -> CodecOutput:
        """[B, 1, L] -> `CodecOutput`, for training. `n_quantizers` [B]: the codebooks of each item; None: all."""
        latents = self.encode_latents(audio)
        quantized = self.quantizer(latents, n_quantizers)
        decoded = self.decode_latents(quantized.latents, length=audio.shape[-1])
        return CodecOutput(decoded, latents, quantized.codes, quantized.commitment_loss)

    def encode(
        self,
        audio: Tensor,
        *,
        n_quantizers: int | None = None,
        lengths: Tensor | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """[B, 1, L] -> [B, K, T], T = ceil(L / hop_length), K = `n_quantizers` or all codebooks.

        With a beam (`beam_width` above 1) the codes of `n_quantizers=K` are nearer to the latents than the first K of
        all, `encode(audio)[:, :K]`, and differ from them in most frames: train on and prompt with the same of the two.

        `lengths` [B]: true samples of each item of a padded batch, whatever is behind them. The first
        `n_frames(length)` frames of an item equal those of the item alone; the rest are padding. `state`: this is the
        next chunk of a stream, whole frames only.

        Raises `UsageError` for audio or lengths that `check_audio` refuses, a number of codebooks the model does not
        have, or a chunk that is not a multiple of `hop_length`.
        """
        audio = self.check_audio(audio, lengths)
        self.check_n_quantizers(n_quantizers)
        if state is not None and audio.shape[-1] % self.hop_length:
            raise UsageError(
                f"a chunk of a stream must be a multiple of {self.hop_length} samples, got {audio.shape[-1]}"
            )
        if not audio.numel():
            shape = (len(audio), n_quantizers or self.n_codebooks, self.n_frames(audio.shape[-1]))
            return torch.zeros(shape, dtype=torch.int64, device=audio.device)
        with torch.autocast(audio.device.type, enabled=False):  # codes do not depend on what surrounds the call
            return self.quantize(self.encode_latents(audio, state=state), n_quantizers)

    def decode(
        self,
        codes: Tensor,
        *,
        length: int | None = None,
        n_frames: Tensor | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """[B, K, T] -> [B, 1, T x hop_length], or its first `length` samples. K: any number of the first codebooks.

        `n_frames` [B]: true frames of each item of a padded batch, whatever is behind them. Their samples equal those
        of the item alone; the rest is zero. With a `state` audio is `config.delay` samples late; `StreamDecoder` sees
        to it, and `n_frames` does not apply.

        Raises `UsageError` for another shape, codes that the model does not have, or another length.
        """
        if n_frames is not None:
            if state is not None:
                raise UsageError("n_frames is for whole recordings; a stream takes the frames that there are")
            is_frame = self._within(n_frames, codes, "n_frames")
            codes = codes.where(is_frame, 0)
        self.check_codes(codes)
        n_samples = codes.shape[-1] * self.hop_length
        if length is not None and not 0 <= length <= n_samples:
            raise UsageError(f"length must be 0 to {n_samples}, the samples of {codes.shape[-1]} frames; got {length}")
        if not codes.numel():
            nothing = self.quantizer.codebooks[0].codewords.new_zeros(len(codes), 1, n_samples)
            return nothing[..., :length]
        try:
            with torch.autocast(codes.device.type, enabled=False):
                latents = self.dequantize(codes)
                if n_frames is None:
                    return self.decode_latents(latents, length=length, state=state)
                audio = self.decode_latents(latents.where(is_frame, 0), length=length, state=state)
                return audio.where(is_frame.repeat_interleave(self.hop_length, dim=-1)[..., :length], 0)
        except RuntimeError as error:  # Fourier transforms of half precision; torch 2.11: "Unsupported dtype"
            if not isinstance(error, NotImplementedError) and "dtype" not in str(error):
                raise
            raise UsageError(f"this model cannot decode in its precision ({error}); codec.float() can") from None

    def encode_latents(self, audio: Tensor, *, state: StreamState | None = None) -> Tensor:
        """[B, 1, L] -> latents [B, D, T] before the quantizer; L is padded with zeros to whole frames."""
        n_missing = -audio.shape[-1] % self.hop_length
        return self.encoder(F.pad(audio, (0, n_missing)) if n_missing else audio, state)

    def quantize(self, latents: Tensor, n_quantizers: int | None = None) -> Tensor:
        """Latents [B, D, T] -> codes [B, K, T], K = `n_quantizers` or all codebooks."""
        return self.quantizer.encode(latents, n_quantizers)

    def dequantize(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] of the first K codebooks -> latents [B, D, T]."""
        return self.quantizer.decode(codes.long())

    def decode_latents(self, latents: Tensor, *, length: int | None = None, state: StreamState | None = None) -> Tensor:
        """Latents [B, D, T] -> audio [B, 1, T x hop_length], or its first `length` samples.

        With a `state` audio is `config.delay` samples late: it begins with as many that precede the signal.
        """
        if state is not None:
            return self.decoder(latents, state)[..., :length]
        n, delay = latents.shape[-1] * self.hop_length, self.config.delay
        audio: Tensor = self.decoder(F.pad(latents, (0, self.n_frames(delay))))
        return audio[..., delay : delay + n][..., :length]

    def check_audio(self, audio: Tensor, lengths: Tensor | None = None) -> Tensor:
        """[B, 1, L] in the model's precision, zero behind `lengths` [B].

        Raises `UsageError` for integers, other shapes, NaN and infinities, lengths beyond the audio, and if that
        precision is below float32, which gives other codes.
        """
        dtype = next(self.parameters()).dtype
        if dtype.itemsize < torch.float32.itemsize:
            raise UsageError(f"this model cannot encode in {dtype}, which gives other codes; load it in float32")
        if not audio.is_floating_point():
            raise UsageError(f"audio must be float in [-1, 1], got {audio.dtype}; for 16-bit samples: audio / 32768")
        if audio.dim() != 3 or audio.shape[1] != 1:
            is_stereo = audio.dim() == 3
            advice = "one channel at a time, or audio.mean(1, keepdim=True)" if is_stereo else "audio.reshape(1, 1, -1)"
            raise UsageError(f"audio must be [B, 1, L], got {list(audio.shape)}; for one recording: {advice}")
        audio = audio.to(dtype)
        if lengths is not None:
            audio = audio.where(self._within(lengths, audio, "lengths"), 0)
        # Others, as of torch.compile, may have no values. The sum is the faster test, but may exceed the type's range.
        if type(audio) is Tensor and not (math.isfinite(audio.sum()) or audio.isfinite().all()):
            raise UsageError("audio must be finite, got NaN or infinite samples; torch.nan_to_num(audio) replaces them")
        return audio

    @staticmethod
    def _within(lengths: Tensor, batch: Tensor, name: str) -> Tensor:
        """Lengths [B] of the items of a batch [B, C, L] -> booleans [B, 1, L]: not padding. Raises `UsageError`."""
        n_items, longest = batch.shape[0], batch.shape[-1]
        is_right = lengths.shape == (n_items,) and not lengths.is_floating_point()
        if not is_right or (type(batch) is Tensor and ((lengths < 0) | (lengths > longest)).any()):
            raise UsageError(f"{name} must be integers [{n_items}], 0 to {longest}; got {lengths.tolist()}")
        return torch.arange(longest, device=batch.device) < lengths.to(batch.device)[:, None, None]

    def check_codes(self, codes: Tensor) -> None:
        """Raises `UsageError` unless it is integers [B, K, T] of the first K codebooks, each within its codebook."""
        is_there = self._is_there(codes)
        if type(codes) is Tensor and not is_there.all():
            item, k, frame = (~is_there).nonzero()[0].tolist()
            last = self.config.quantizer.codebook_sizes[k] - 1
            raise UsageError(
                f"codes: codebook {k + 1} has codes from 0 to {last}, but frame {frame} of item {item} holds "
                f"{codes[item, k, frame]}; made by another model? codec.valid_frames(codes) finds such frames"
            )

    def valid_frames(self, codes: Tensor) -> Tensor:
        """Codes [B, K, T] -> booleans [B, T]: each code of the frame is within its codebook. `UsageError` for another
        shape."""
        return self._is_there(codes).all(dim=1)

    def _is_there(self, codes: Tensor) -> Tensor:
        """[B, K, T] -> booleans [B, K, T]: the codebook has this code."""
        sizes = self.config.quantizer.codebook_sizes
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= len(sizes) or codes.dtype not in _CODE_TYPES:
            raise UsageError(f"codes must be integers [B, 1 to {len(sizes)}, T], got {codes.dtype} {list(codes.shape)}")
        values, limits = codes.long(), torch.tensor(sizes[: codes.shape[1]], device=codes.device)[:, None]
        return (values >= 0) & (values < limits)

    def check_n_quantizers(self, n_quantizers: int | None) -> None:
        """Raises `UsageError` unless it is None (all) or a number of codebooks that the model has."""
        if n_quantizers is not None and not 1 <= n_quantizers <= self.n_codebooks:
            raise UsageError(f"n_quantizers must be 1 to {self.n_codebooks}, got {n_quantizers}")

    def fit_front(self, audio: Tensor) -> None:
        """Fit the front's scales to speech [B, 1, T x hop_length]; call it before fitting the codebooks."""
        self._front.fit(self.encoder, self.decoder, audio)

    def fold_weight_norm(self) -> None:
        """Replace each weight-normed convolution by an equal plain one: for inference."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")
                module.weight = nn.Parameter(with_channels_last(module.get_parameter("weight")))
