"""What all sections of the configuration share, and the model's: all that a model file stores beside its weights.

Upper limits are far above any useful codec: a file or a YAML with a wrong number is refused instead of filling the
memory.
"""

from __future__ import annotations

import math
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

Positive = Annotated[int, Field(gt=0, le=2**63 - 1)]
Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
_MAX_HOP = 8192  # samples
_MAX_WIDTH = 16384  # channels of any layer
MAX_CODEBOOKS = 255  # the packed file stores their number in one byte


class Section(BaseModel):
    """A part of the config. YAML scalars arrive as text and are converted to the declared type."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_null(cls, values: Any) -> Any:
        """YAML's `null`, for the keys that may be empty."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if NoneType in get_args(field.annotation)}
        return {k: None if k in optional and v in ("null", "~", "") else v for k, v in values.items()}


class FrontSection(Section):
    """What all fronts have."""

    kind: str

    @property
    def encoder(self) -> FrontSection:
        """The section that decides the codes: this one, unless only the decoder differs from another front's."""
        return self

    @property
    def delay(self) -> int:
        """Samples by which the decoder's output is late, beyond the frame that codes wait for."""
        return 0


class StridedConfig(FrontSection):
    """Front of learned strided convolutions."""

    kind: Literal["strided"] = Field(
        "strided", description="strided: learned convolutions; transform or refined: a DCT, for small training budgets"
    )
    strides: tuple[Positive, ...] = Field(
        (2, 4, 5, 8), min_length=1, max_length=12, description="of each encoder block; their product is the hop length"
    )
    base_channels: int = Field(32, gt=0, le=1024, description="of the first convolution; every block doubles them")
    kernel_size: int = Field(7, gt=0, le=1024, description="taps of the convolutions that do not change the rate")
    dilations: tuple[Annotated[int, Field(gt=0, le=1024)], ...] = Field(
        (1, 3, 9), max_length=12, description="one residual unit each, in every block"
    )

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    def latent_width(self, network_width: int) -> int:
        """D: the width of the transformer."""
        return network_width


class TransformConfig(FrontSection):
    """Front of a cosine transform with learned corrections, for small training budgets."""

    kind: Literal["transform"] = Field("transform", description="a DCT, for small training budgets")
    hop_length: int = Field(320, gt=0, le=_MAX_HOP, description="samples per frame, which is the transform's block")
    low_coefficients: Positive = Field(56, description="coded one by one, from 0 Hz up; 25 Hz each at a hop of 20 ms")
    high_bands: int = Field(12, gt=0, le=256, description="bands whose levels stand for the coefficients above")
    first_band: Positive = Field(40, description="coefficient where the bands begin, at most low_coefficients")
    level_prediction: float = Field(
        0.4, ge=0, lt=0.99, description="share of the previous frame's band levels that is subtracted from each level"
    )

    @model_validator(mode="after")
    def _check_coefficients(self) -> TransformConfig:
        if self.low_coefficients + self.high_bands > self.hop_length:
            raise ValueError(
                f"low_coefficients + high_bands is {self.low_coefficients + self.high_bands}, more than the "
                f"{self.hop_length} coefficients of a frame"
            )
        if self.first_band > self.low_coefficients:
            raise ValueError(f"first_band is {self.first_band}, above the {self.low_coefficients} low_coefficients")
        return self

    def latent_width(self, network_width: int) -> int:
        """D: the low coefficients and the levels of the bands."""
        return self.low_coefficients + self.high_bands


class RefinedConfig(TransformConfig):
    """Front of `transform` whose decoder ends with a network that corrects overlapping spectra."""

    kind: Literal["refined"] = Field(  # type: ignore[assignment]  # another literal than its base's
        "refined", description="transform, and a network that corrects overlapping spectra of what it decodes"
    )
    fine_channels: int = Field(256, gt=0, le=_MAX_WIDTH, description="of the blocks at the rate of these spectra")
    n_fine_blocks: int = Field(4, ge=0, le=256, description="of those")
    spectra_per_frame: int = Field(
        4, ge=3, le=64, description="spectra as long as a frame; delay: a frame less one part of so many"
    )

    @model_validator(mode="after")
    def _check_spectra(self) -> RefinedConfig:
        if self.hop_length % self.spectra_per_frame or self.hop_length % 2:
            raise ValueError(
                f"hop_length is {self.hop_length}, which must be even and a multiple of spectra_per_frame "
                f"({self.spectra_per_frame})"
            )
        return self

    @property
    def encoder(self) -> TransformConfig:
        return TransformConfig(**self.model_dump(include=TransformConfig.model_fields.keys() - {"kind"}))

    @property
    def delay(self) -> int:
        return self.hop_length - self.hop_length // self.spectra_per_frame


FrontConfig = Annotated[
    Annotated[StridedConfig, Tag("strided")]
    | Annotated[TransformConfig, Tag("transform")]
    | Annotated[RefinedConfig, Tag("refined")],
    Discriminator(
        lambda front: front.get("kind", "strided") if isinstance(front, dict) else getattr(front, "kind", ""),
        custom_error_type="unknown_front",
        custom_error_message="expected a section whose kind is strided, transform or refined",
    ),
]


class TransformerConfig(Section):
    """The causal transformer before the quantizer, and its twin behind it."""

    width: int = Field(
        1024, gt=0, le=_MAX_WIDTH, description="of the network, a multiple of n_heads; of strided also of the latents"
    )
    n_layers: int = Field(4, ge=0, le=256, description="layers on each side")
    n_heads: Positive = Field(16, description="attention heads")
    feedforward_width: int = Field(1792, gt=0, le=4 * _MAX_WIDTH, description="hidden width of the gated feed-forward")
    look_back_frames: Positive = Field(250, description="frames before its own that a frame attends to")

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerConfig:
        if self.width % (2 * self.n_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x n_heads ({2 * self.n_heads})")
        return self


class QuantizerConfig(Section):
    """Residual vector quantizer; every codebook has the full latent width and follows moving averages."""

    codebook_sizes: tuple[Positive, ...] = Field(
        (2048, *[1024] * 7), min_length=1, max_length=MAX_CODEBOOKS, description="codewords of each codebook"
    )
    ema_decay: Probability = Field(0.99, description="how much of a codeword's past survives an update")
    revive_below: Probability = Field(0.1, description="share of the mean hit rate below which a codeword is dead")
    beam_width: int = Field(1, gt=0, le=4096, description="of the codebook search; more: slower and more accurate")
    gain: bool = Field(False, description="codewords of the later codebooks are scaled by a gain of the first code")
    quantizer_dropout: Probability = Field(0.5, description="share of training crops coded with fewer codebooks")

    @field_validator("codebook_sizes")
    @classmethod
    def _check_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        for size in sizes:
            if size & (size - 1) or size > 65536 or size < 2:
                raise ValueError(f"a codebook size must be a power of two from 2 to 65536, got {size}")
        return sizes


class ModelConfig(Section):
    """The codec: a front, a transformer on each side and a residual vector quantizer between them."""

    sample_rate: Positive = Field(16000, description="Hz")
    front: FrontConfig = Field(
        StridedConfig(), description="between samples and latents; configs/starter.yaml shows the keys of refined"
    )
    transformer: TransformerConfig = TransformerConfig()
    quantizer: QuantizerConfig = QuantizerConfig()

    @model_validator(mode="after")
    def _check_size(self) -> ModelConfig:
        if self.hop_length > _MAX_HOP:
            raise ValueError(f"front: {self.hop_length} samples a frame are more than {_MAX_HOP}")
        return self

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return self.front.hop_length

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def delay(self) -> int:
        """Samples by which the decoder's output is late, beyond the frame that codes wait for."""
        return self.front.delay

    @property
    def latent_width(self) -> int:
        """D: values of a latent frame."""
        return self.front.latent_width(self.transformer.width)

    @property
    def n_codebooks(self) -> int:
        return len(self.quantizer.codebook_sizes)

    @property
    def bits_per_code(self) -> tuple[int, ...]:
        """Of each codebook."""
        return tuple(size.bit_length() - 1 for size in self.quantizer.codebook_sizes)

    @property
    def bits_per_frame(self) -> int:
        return sum(self.bits_per_code)

    @property
    def bitrate_kbps(self) -> float:
        """Nominal: codes alone, no header."""
        return self.frame_rate * self.bits_per_frame / 1000
