"""What the generator's optimiser moves, as one module, so that one wrapper carries it over several cards."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from codecctl.model.codec import Codec
from codecctl.train.teacher import first_book


class Generated(NamedTuple):
    audio: Tensor  # [B, 1, L] the reconstruction
    latents: Tensor  # [B, D, T] before the quantizer
    codes: Tensor  # [B, K, T]
    commitment_loss: Tensor  # [K]
    semantics: Tensor | None  # [B, T, D'] book 1 in the teacher's space; None without a teacher


class Generator(nn.Module):
    """The codec and, with a teacher, the projection of book 1 into the teacher's space."""

    def __init__(self, codec: Codec, semantic_head: nn.Module | None) -> None:
        super().__init__()
        self.codec = codec
        self.semantic_head = semantic_head

    def forward(self, audio: Tensor, n_quantizers: Tensor) -> Generated:
        """[B, 1, L], [B] -> `Generated`"""
        output = self.codec(audio, n_quantizers)
        semantics = None
        if self.semantic_head is not None:
            semantics = self.semantic_head(first_book(self.codec.quantizer, output.latents, output.codes))
        return Generated(output.audio, output.latents, output.codes, output.commitment_loss, semantics)
