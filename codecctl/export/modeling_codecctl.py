"""An exported codec for `transformers`, in the terms of its own codecs. `codecctl export --to hf` copies this file, and
the files of the model that it imports, beside the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from codecctl.export.configuration_codecctl import CodecctlConfig
from codecctl.model.codec import Codec


@dataclass
class CodecctlEncoderOutput(ModelOutput):
    audio_codes: Tensor | None = None  # [B, K, T]
    audio_codes_mask: Tensor | None = None  # [B, T], False where an item of a padded batch has ended
    fingerprint: str | None = None  # of the model whose codes these are


@dataclass
class CodecctlDecoderOutput(ModelOutput):
    audio_values: Tensor | None = None  # [B, 1, L]


@dataclass
class CodecctlOutput(ModelOutput):
    audio_codes: Tensor | None = None  # [B, K, T]
    audio_values: Tensor | None = None  # [B, 1, L]


class CodecctlModel(PreTrainedModel):
    """The codec, or with `part="encoder"` or `part="decoder"` that part of it and the codebooks."""

    config_class = CodecctlConfig
    base_model_prefix = "codecctl"
    main_input_name = "input_values"

    def __init__(self, config: CodecctlConfig) -> None:
        super().__init__(config)
        codec = Codec(config.sections)
        for module in codec.modules():
            # Tables that the package computes are loaded here: transformers creates models without values.
            module._non_persistent_buffers_set.clear()
        for name in [name for name, _ in codec.named_buffers() if name.endswith(_TRAINING)]:
            parent, _, last = name.rpartition(".")
            delattr(codec.get_submodule(parent), last)
        absent = {"codec": [], "encoder": ["decoder"], "decoder": ["encoder"]}[config.part]
        for name in absent:
            setattr(codec, name, None)
        self.encoder, self.quantizer, self.decoder = codec.encoder, codec.quantizer, codec.decoder
        self._keys_to_ignore_on_load_unexpected = [rf"^{name}\." for name in absent]
        self._codec = (codec,)  # in a tuple: its parts are registered above
        self.post_init()

    @property
    def codec(self) -> Codec:
        """The codec in its own terms: latents, codes, and streams with a state."""
        return self._codec[0]

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        n_quantizers: int | None = None,
        return_dict: bool | None = None,
    ) -> CodecctlEncoderOutput | tuple[Any, ...]:
        """[B, 1, L] -> codes [B, K, T], K = `n_quantizers` or all codebooks, T = ceil(L / hop_length).

        `padding_mask` [B, L] or [B, 1, L], padding on the right: an item gets the codes that it gets alone.
        """
        if self.encoder is None:
            raise ValueError("this is the decoder alone; load the model without part='decoder' to encode")
        if padding_mask is None:
            padding_mask = torch.ones_like(input_values, dtype=torch.bool)
        n_samples, n_frames = self._lengths(padding_mask)
        codes = self.codec.encode(input_values, n_quantizers=n_quantizers, lengths=n_samples)
        is_frame = torch.arange(codes.shape[-1], device=codes.device) < n_frames[:, None]
        output = CodecctlEncoderOutput(codes, is_frame, self.config.fingerprint)
        return output if return_dict is not False else output.to_tuple()

    def decode(
        self,
        audio_codes: Tensor,
        padding_mask: Tensor | None = None,
        fingerprint: str | None = None,
        return_dict: bool | None = None,
    ) -> CodecctlDecoderOutput | tuple[Any, ...]:
        """Codes [B, K, T] of the first K codebooks -> audio [B, 1, T x hop_length], or as long as `padding_mask`.

        `padding_mask` of the samples, as for `encode`: an item gets the audio that it gets alone, then zeros.
        `fingerprint`: of the codes; codes of another model raise `ValueError`.
        """
        if self.decoder is None:
            raise ValueError("this is the encoder alone; load the model without part='encoder' to decode")
        if fingerprint not in (None, self.config.fingerprint):
            raise ValueError(f"these codes are of the model {fingerprint}, and this is {self.config.fingerprint}")
        length = n_frames = None
        if padding_mask is not None:
            length, n_frames = padding_mask.shape[-1], self._lengths(padding_mask)[1]
        output = CodecctlDecoderOutput(self.codec.decode(audio_codes, length=length, n_frames=n_frames))
        return output if return_dict is not False else output.to_tuple()

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        n_quantizers: int | None = None,
        return_dict: bool | None = None,
    ) -> CodecctlOutput | tuple[Any, ...]:
        """[B, 1, L] -> codes [B, K, T] and the audio [B, 1, L] that they decode to."""
        codes = self.encode(input_values, padding_mask, n_quantizers, return_dict=False)[0]
        n_frames = None if padding_mask is None else self._lengths(padding_mask)[1]
        audio = self.codec.decode(codes, length=input_values.shape[-1], n_frames=n_frames)
        output = CodecctlOutput(codes, audio)
        return output if return_dict is not False else output.to_tuple()

    def _lengths(self, padding_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L] or [B, 1, L] -> samples and frames of each item, [B]."""
        mask = padding_mask.reshape(-1, padding_mask.shape[-1]).bool()
        n_samples = mask.sum(dim=-1)
        if not mask[torch.arange(mask.shape[-1], device=mask.device) < n_samples[:, None]].all():
            raise ValueError("padding_mask: padding must be on the right; this codec is causal")
        return n_samples, -(-n_samples // self.config.hop_length)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every layer starts as its constructor made it."""


_TRAINING = ("codeword_sum", "cluster_size", "left_over")  # buffers
