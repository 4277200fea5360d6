"""The module that the generator's optimiser trains, so that one wrapper distributes it over several cards."""

from __future__ import annotations

from torch import Tensor, nn

from codecctl.model.codec import Codec, CodecOutput
from codecctl.train.teacher import first_codebook


class Generator(nn.Module):
    """The codec and, with a teacher, the projection of the first codebook into the teacher's space."""

    def __init__(self, codec: Codec, semantic_head: nn.Module | None) -> None:
        super().__init__()
        self.codec = codec
        self.semantic_head = semantic_head

    def forward(self, audio: Tensor, n_quantizers: Tensor) -> tuple[CodecOutput, Tensor | None]:
        """[B, 1, L], [B] -> `CodecOutput`, and the projected codewords [B, T, D_teacher]; None without a teacher."""
        output = self.codec(audio, n_quantizers)
        if self.semantic_head is None:
            return output, None
        return output, self.semantic_head(first_codebook(self.codec.quantizer, output.latents, output.codes))
