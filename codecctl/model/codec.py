"""The codec: samples to codes and back, for whole signals, batches of unequal length, and streams."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from codecctl.config.schema import ModelConfig
from codecctl.errors import UsageError
from codecctl.model.causal import StreamState
from codecctl.model.decoder import Decoder
from codecctl.model.encoder import Encoder
from codecctl.model.quantizer import ResidualVectorQuantizer
from codecctl.model.transform import TransformDecoder, TransformEncoder


class CodecOutput(NamedTuple):  # what wraps a module for several cards passes tuples on, and no frozen dataclass
    audio: Tensor  # [B, 1, L] the reconstruction, as long as the input
    latents: Tensor  # [B, D, T] before the quantizer
    codes: Tensor  # [B, K, T]
    commitment_loss: Tensor  # [K]


class Codec(nn.Module):
    """Encoder, residual quantizer and decoder of a `ModelConfig`; causal: an output depends on the past alone."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        is_strided = config.front == "strided"
        self.encoder = Encoder(config) if is_strided else TransformEncoder(config)
        self.quantizer = ResidualVectorQuantizer(config.quantizer, config.latent_width)
        self.decoder = Decoder(config) if is_strided else TransformDecoder(config)

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
        """Nominal, with all books."""
        return self.config.bitrate_kbps

    def n_frames(self, n_samples: int) -> int:
        """Frames of a signal: the last one may be partly filled."""
        return -(-n_samples // self.hop_length)

    def forward(self, audio: Tensor, n_quantizers: Tensor | None = None) -> CodecOutput:
        """[B, 1, L] -> `CodecOutput`, for training. `n_quantizers` [B]: the books each item uses; None: all."""
        latents = self.encoder(self._pad(audio))
        quantized = self.quantizer(latents, n_quantizers)
        decoded = self.decoder(quantized.latents)[..., : audio.shape[-1]]
        return CodecOutput(decoded, latents, quantized.codes, quantized.commitment_loss)

    def encode(
        self,
        audio: Tensor,
        *,
        n_quantizers: int | None = None,
        lengths: Tensor | None = None,
        state: StreamState | None = None,
    ) -> Tensor:
        """[B, 1, L] -> [B, K, T], T = ceil(L / hop_length), K = `n_quantizers` or all books.

        `lengths` [B]: true samples of each item of a padded batch. Its first `n_frames(length)` frames are what the
        item gets alone; those after them are padding. `state`: this is a stream's next chunk, whole frames only.

        Raises `UsageError` for another shape, a number of books the model does not have, or a chunk of broken frames.
        """
        if audio.dim() != 3 or audio.shape[1] != 1 or not audio.is_floating_point():
            raise UsageError(
                f"audio must be float [B, 1, L], got {audio.dtype} {list(audio.shape)}; try audio.reshape(1, 1, -1)"
            )
        if n_quantizers is not None and not 1 <= n_quantizers <= self.n_codebooks:
            raise UsageError(f"n_quantizers must be 1 to {self.n_codebooks}, got {n_quantizers}")
        if state is not None and audio.shape[-1] % self.hop_length:
            raise UsageError(
                f"a chunk of a stream must be a multiple of {self.hop_length} samples, got {audio.shape[-1]}"
            )
        if lengths is not None:
            audio = audio * (torch.arange(audio.shape[-1], device=audio.device) < lengths[:, None, None])
        if audio.shape[-1] == 0:
            return torch.zeros(len(audio), n_quantizers or self.n_codebooks, 0, dtype=torch.int64, device=audio.device)
        return self.quantizer.encode(self.encoder(self._pad(audio), state), n_quantizers)

    def decode(self, codes: Tensor, *, length: int | None = None, state: StreamState | None = None) -> Tensor:
        """[B, K, T] -> [B, 1, T x hop_length], or its first `length` samples. K may be any number of the first books.

        Raises `UsageError` for another shape.
        """
        if codes.dim() != 3 or not 1 <= codes.shape[1] <= self.n_codebooks or codes.is_floating_point():
            raise UsageError(
                f"codes must be integers [B, 1 to {self.n_codebooks}, T], got {codes.dtype} {list(codes.shape)}"
            )
        if codes.shape[-1] == 0:
            return self.quantizer.books[0].codebook.new_zeros(len(codes), 1, 0)
        audio: Tensor = self.decoder(self.quantizer.decode(codes.long()), state)
        return audio[..., :length]

    def fit_front(self, audio: Tensor) -> None:
        """Adapt what is fitted and not learned, before the books, to [B, 1, T x hop_length] of speech."""
        if isinstance(self.encoder, TransformEncoder) and isinstance(self.decoder, TransformDecoder):
            self.encoder.fit(audio)
            self.decoder.fit(self.encoder)

    @torch.no_grad()
    def weigh_bands(self, weight: float) -> None:
        """Let the levels of the high bands weigh so many times more against the low coefficients in the books'
        distance (transform front only). What codes decode to stays the same; which codes are chosen does not."""
        if weight != 1 and isinstance(self.encoder, TransformEncoder) and isinstance(self.decoder, TransformDecoder):
            self.encoder.shrink_low(weight)
            self.decoder.shrink_low(weight)
            for book in self.quantizer.books:
                book.codebook[:, : self.encoder.outline.n_low] /= weight
                book.codeword_sum[:, : self.encoder.outline.n_low] /= weight

    def fold_weight_norm(self) -> None:
        """Replace each weight-normed convolution by the plain one it equals: for inference."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")

    def _pad(self, audio: Tensor) -> Tensor:
        """Zeros at the end, to whole frames."""
        return F.pad(audio, (0, -audio.shape[-1] % self.hop_length))
