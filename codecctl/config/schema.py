"""The configuration: every key with its default, unit and help. The defaults are the production codec.

Sections are frozen and refuse unknown keys; what follows from other keys is a property and stored nowhere.
"""

from __future__ import annotations

import math
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Section(BaseModel):
    """A part of the config. YAML scalars arrive as text and are read as the declared type says."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _read_null(cls, values: Any) -> Any:
        """YAML's `null`, for the keys that may be empty."""
        if not isinstance(values, dict):
            return values
        optional = {name for name, field in cls.model_fields.items() if NoneType in get_args(field.annotation)}
        return {k: None if k in optional and v in ("null", "~", "") else v for k, v in values.items()}


class MixConfig(Section):
    """How often each (dataset, language) is heard in training, beyond its hours."""

    temperature: float = Field(1.0, ge=1, description="1: in proportion to hours; more evens out; 100: all the same")
    datasets: dict[str, Weight] = Field({}, description="factor for a dataset, e.g. {librispeech: 0.5}; others: 1")
    languages: dict[str, Weight] = Field({}, description="factor for a language, e.g. {te: 2}; others: 1")


class FilterConfig(Section):
    """Which recordings of the prepared folder are trained on. `*` stands for anything in names."""

    min_bandwidth_hz: float = Field(0.0, ge=0, description="leave out sound that ends below; 5000: telephone speech")
    languages: tuple[str, ...] | None = Field(None, description="only these, e.g. [te, en]; null: all")
    licences: tuple[str, ...] | None = Field(None, description="only these, e.g. [CC0-*, CC-BY-4.0]; null: all")


class DataConfig(Section):
    """Where prepared speech lies and how crops are cut out of it."""

    path: str = Field("data/prepared", description="folder that `codecctl prepare` wrote")
    segment_seconds: float = Field(5.0, gt=0, description="length of a training crop")
    validation_share: Probability = Field(0.05, description="share of the speakers kept for validation by `prepare`")
    split_seed: Count = Field(0, description="which speakers those are")
    min_seconds: float = Field(0.2, ge=0, description="shorter recordings are rejected by `prepare`")
    max_clipping: Probability = Field(0.01, description="a larger share of clipped samples: rejected by `prepare`")
    level_augmentation_db: float = Field(0.0, ge=0, description="training crops get louder or softer by up to this")
    crop_level_db: float | None = Field(
        None, lt=0, description="RMS in dB of full scale that training crops are brought to before; null: as they are"
    )
    speed_augmentation: float = Field(
        0.0, ge=0, le=0.5, description="training crops run faster or slower by up to this share, pitch and all"
    )
    colour_augmentation_db: float = Field(
        0.0, ge=0, description="training crops go through smooth random filters of up to this, like other microphones"
    )
    noise_snr_db: tuple[float, float] | None = Field(
        None, description="training crops get noise of random colour, so many dB softer, e.g. [20, 100]; null: none"
    )
    mix: MixConfig = MixConfig()
    filter: FilterConfig = FilterConfig()
    n_workers: Count = Field(4, description="threads that cut crops ahead of the training step; 0: none")

    @model_validator(mode="after")
    def _check_noise(self) -> DataConfig:
        if self.noise_snr_db is not None and self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db: expected the smaller number first, got {list(self.noise_snr_db)}")
        return self


class TransformerConfig(Section):
    """The causal transformer before the quantizer, and its twin behind it."""

    width: Positive = Field(1024, description="of the network, a multiple of n_heads; of strided also of the latents")
    n_layers: Count = Field(4, description="layers on each side")
    n_heads: Positive = Field(16, description="attention heads")
    feedforward_width: Positive = Field(1792, description="hidden width of the gated feed-forward")
    look_back_frames: Positive = Field(250, description="frames before its own that a frame sees")

    @model_validator(mode="after")
    def _check_heads(self) -> TransformerConfig:
        if self.width % (2 * self.n_heads):
            raise ValueError(f"width {self.width} must be a multiple of 2 x n_heads ({2 * self.n_heads})")
        return self


class QuantizerConfig(Section):
    """Residual vector quantizer; every book has the full latent width and follows its codewords' moving averages."""

    codebook_sizes: tuple[Positive, ...] = Field((2048, *[1024] * 7), min_length=1, description="rows of each book")
    ema_decay: Probability = Field(0.99, description="how much of a codeword's past survives an update")
    revive_below: Probability = Field(0.1, description="share of the even hit rate that counts as dead")
    n_paths: Positive = Field(1, description="choices of codewords that encoding follows; more: slower, and better")
    gain: bool = Field(False, description="book 1's choice says how large the codewords of the later books are")
    quantizer_dropout: Probability = Field(0.5, description="share of training crops coded with fewer books")

    @field_validator("codebook_sizes")
    @classmethod
    def _check_sizes(cls, sizes: tuple[int, ...]) -> tuple[int, ...]:
        for size in sizes:
            if size & (size - 1) or size > 65536 or size < 2:
                raise ValueError(f"a codebook size must be a power of two from 2 to 65536, got {size}")
        return sizes


class ModelConfig(Section):
    """The codec: causal convolutions, a transformer, a residual quantizer, and the mirror of the first two."""

    sample_rate: Positive = Field(16000, description="Hz")
    front: Literal["strided", "transform"] = Field(
        "strided", description="strided: learned convolutions; transform: networks around a DCT, for small budgets"
    )
    strides: tuple[Positive, ...] = Field(
        (2, 4, 5, 8), min_length=1, description="in encoder order; of transform, their product is the block"
    )
    base_channels: Positive = Field(32, description="strided: of the first convolution; every block doubles them")
    compression: float = Field(0.7, gt=0, le=1, description="transform: exponent of the coefficients' power law")
    low_coefficients: Positive = Field(40, description="transform: so many are coded one by one, 25 Hz each")
    high_bands: Positive = Field(12, description="transform: so many levels stand for the coefficients above")
    first_band: Positive | None = Field(
        None, description="transform: coefficient where the levels begin, at most low_coefficients; null: there"
    )
    level_prediction: float = Field(
        0.0, ge=0, lt=1, description="transform: share of the frame before that is taken from each level"
    )
    kernel_size: Positive = Field(7, description="taps of the convolutions that do not change the rate")
    dilations: tuple[Positive, ...] = Field((1, 3, 9), description="one residual unit each, in every block")
    output_tanh: bool = Field(True, description="strided: bound the waveform by tanh")
    transformer: TransformerConfig = TransformerConfig()
    quantizer: QuantizerConfig = QuantizerConfig()

    @model_validator(mode="after")
    def _check_latents(self) -> ModelConfig:
        if self.front == "transform" and self.latent_width > self.hop_length:
            raise ValueError(f"low_coefficients + high_bands is {self.latent_width}, a frame has {self.hop_length}")
        if self.level_prediction and self.front != "transform":
            raise ValueError("level_prediction is for front=transform; other fronts have no levels")
        if self.first_band is not None and self.first_band > self.low_coefficients:
            raise ValueError(f"first_band is {self.first_band}, above the {self.low_coefficients} low_coefficients")
        return self

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length

    @property
    def latent_width(self) -> int:
        """D: values of a latent frame."""
        return self.transformer.width if self.front == "strided" else self.low_coefficients + self.high_bands

    @property
    def n_codebooks(self) -> int:
        return len(self.quantizer.codebook_sizes)

    @property
    def bits_per_frame(self) -> int:
        return sum(size.bit_length() - 1 for size in self.quantizer.codebook_sizes)

    @property
    def bitrate_kbps(self) -> float:
        """Nominal: codes alone, no header."""
        return self.frame_rate * self.bits_per_frame / 1000


class AdversarialConfig(Section):
    """The discriminators, and when the codec begins to hear them."""

    periods: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (2, 3, 5, 7, 11), description="samples; a discriminator each, of the waveform folded by it; []: none"
    )
    stft_windows: tuple[Annotated[int, Field(ge=64, multiple_of=4)], ...] = Field(
        (2048, 1024, 512), description="samples; a discriminator each, of complex spectra; []: none"
    )
    channels: Positive = Field(32, description="of their first layers; all others in proportion")
    heard_seconds: float | None = Field(
        None, ge=0.01, description="what they hear of each crop, a stretch drawn anew at each step; null: all"
    )
    start_epoch: Count = Field(5, description="epoch at whose start the codec begins to hear them")
    warmup_steps: Count = Field(1000, description="steps before that in which they learn alone")
    ramp_steps: Count = Field(5000, description="steps in which their weights rise from 0 to the full")
    learning_rate: float = Field(1e-4, gt=0, description="of their AdamW")

    @model_validator(mode="after")
    def _check_any(self) -> AdversarialConfig:
        if not self.periods and not self.stft_windows:
            raise ValueError("periods and stft_windows are both empty; leave one discriminator at least")
        return self


class SemanticConfig(Section):
    """The frozen speech model whose hidden states teach book 1."""

    teacher: str = Field(
        "microsoft/wavlm-base-plus@4c66d4806a428f2e922ccfa1a962776e232d487b",
        min_length=1,
        description="encoder of samples on the Hugging Face hub, as name@commit, or a folder that holds one",
    )
    layer: Count | Literal["mean"] = Field(
        "mean", description="0: before the first layer, n: after it; mean: of 1 to n"
    )
    axis: Literal["channel", "time", "both"] = Field(
        "channel", description="cosines of each channel along time, of each frame over the channels, or both"
    )


class LossConfig(Section):
    """What training minimises: the weight of each loss and the windows of the spectral ones."""

    waveform_weight: Weight = Field(1.0, description="L1 of the samples")
    spectral_weight: Weight = Field(1.0, description="multi-scale STFT magnitudes, linear and logarithmic")
    mel_weight: Weight = Field(15.0, description="multi-scale log-mel L1")
    average_spectrum_weight: Weight = Field(0.0, description="mean power of each mel band over a crop; 0: off")
    complex_weight: Weight = Field(0.0, description="complex spectra under a power law; 0: off")
    loudness_weight: Weight = Field(0.0, description="loudness in critical bands, as PESQ hears it; 0: off")
    neurogram_weight: Weight = Field(0.0, description="patterns over time and critical bands, as in ViSQOL; 0: off")
    repetition_weight: Weight = Field(0.0, description="frames too much alike above 1 kHz, a buzz; 0: off")
    commitment_weight: Weight = Field(0.25, description="encoder to its codewords, mean over the books")
    semantic_weight: Weight = Field(10.0, description="book 1 to the teacher's hidden states; 0: no teacher")
    adversarial_weight: Weight = Field(1.0, description="to be taken for real speech by the discriminators; 0: off")
    feature_weight: Weight = Field(2.0, description="hidden layers of the discriminators; 0: off")
    spectral_windows: tuple[Positive, ...] = Field((512, 1024, 2048), min_length=1, description="STFT windows")
    complex_windows: tuple[Positive, ...] = Field((512,), min_length=1, description="of the complex spectra")
    complex_below_hz: float | None = Field(None, gt=0, description="so much of the complex spectra; null: all of it")
    mel_windows: tuple[Positive, ...] = Field((64, 128, 256, 512, 1024, 2048), min_length=1, description="samples")
    mel_bins: tuple[Positive, ...] = Field((10, 20, 40, 80, 80, 80), min_length=1, description="of each mel window")

    @property
    def weights(self) -> dict[str, float]:
        """By the name of the loss."""
        names = [name for name in type(self).model_fields if name.endswith("_weight")]
        return {name.removesuffix("_weight"): getattr(self, name) for name in names}

    @property
    def is_adversarial(self) -> bool:
        return bool(self.adversarial_weight or self.feature_weight)

    @model_validator(mode="after")
    def _check_mel(self) -> LossConfig:
        if len(self.mel_bins) != len(self.mel_windows):
            raise ValueError(f"mel_bins has {len(self.mel_bins)} entries and mel_windows {len(self.mel_windows)}")
        return self


class GpuConfig(Section):
    """The card a profile was written for."""

    name: str = Field(description="part of the name that the driver gives it, e.g. RTX 4090")
    memory_gb: float = Field(gt=0, description="memory of the card")
    price_per_hour_usd: float = Field(ge=0, description="rent of the card, a rough market figure")
    peak_tflops: float | None = Field(None, gt=0, description="its maker's figure for dense bfloat16 matrix products")
    bandwidth_gb_per_second: float | None = Field(None, gt=0, description="its maker's figure for the memory")


class TrainConfig(Section):
    """The optimiser, the loop, and what it writes."""

    seed: Count = Field(
        0, lt=2**32, description="of weights, crops and dropout; a step's randomness follows from (seed, step)"
    )  # torch's generator on the CPU would pass over the bits above
    n_steps: Positive = Field(400_000, description="updates in the whole run")
    batch_size: Positive = Field(16, description="crops that one card takes at a time")
    accumulate: Positive = Field(1, description="batches whose gradients add up to one step")
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, reached after the warm-up")
    final_rate_share: Probability = Field(0.1, description="of all learning rates, where the cosine ends at n_steps")
    warmup_steps: Count = Field(1000, description="steps of linear rise")
    betas: tuple[Probability, Probability] = Field((0.8, 0.99), description="of AdamW")
    weight_decay: Weight = Field(0.01, description="of AdamW, on matrices and kernels only")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: Probability = Field(0.999, description="of the average of the weights that is validated and exported")
    freeze: tuple[Literal["encoder", "quantizer", "decoder"], ...] = Field((), description="parts that do not learn")
    band_weight: float = Field(
        1.0,
        gt=0,
        description="at the start the levels of high bands weigh so much more in the books (front: transform)",
    )
    adversarial: AdversarialConfig = AdversarialConfig()
    semantic: SemanticConfig = SemanticConfig()
    kmeans_vectors: Positive = Field(40_960, description="latent frames from which the codebooks start")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="the quantizer is always float32")
    log_every_steps: Positive = Field(50, description="a line in metrics.jsonl and TensorBoard")
    validate_every_steps: Positive = Field(5000, description="validation, and best.pt if it improved")
    checkpoint_every_steps: Positive = Field(1000, description="last.pt")
    keep_checkpoints: Positive = Field(2, description="the newest so many; best.pt comes on top")
    roll_back_after: Positive = Field(5, description="steps in a row whose gradient is not finite")
    max_rollbacks: Count = Field(3, description="more of them stop the run")
    min_perplexity: Probability = Field(0.01, description="share of a book's size under which an alarm is given")
    stop_after_alarms: Positive = Field(20, description="lines of the log in a row with that alarm")
    compile: bool = Field(False, description="torch.compile the networks")
    gpu: GpuConfig | None = Field(None, description="set by --gpu")


class ValidateConfig(Section):
    """What validation looks at."""

    n_utterances: Positive | None = Field(None, description="at most so many, the same every time; null: all")
    metrics: tuple[str, ...] = Field(("pesq", "stoi"), description="perceptual metrics, where installed")
    recogniser: str | None = Field(None, description="folder of a faster-whisper model, for words among the metrics")
    opus_kbps: tuple[Annotated[float, Field(ge=6, le=128)], ...] = Field(
        (6.0, 8.0, 12.0), description="rates of Opus to compare with"
    )
    n_quantizers: tuple[Positive, ...] = Field((1, 2, 4, 6, 8), description="numbers of codebooks of a report's curve")
    require: dict[str, float] = Field(
        {},
        description="limits of metrics; perplexity, codebook_usage: the least share in any codebook",
    )


class Config(Section):
    """Everything a run needs. `configs/production.yaml` shows each key."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    validation: ValidateConfig = Field(ValidateConfig(), alias="validate")  # pydantic owns the plain name

    @model_validator(mode="after")
    def _check_bands(self) -> Config:
        if self.train.band_weight != 1 and self.model.front != "transform":
            raise ValueError("train.band_weight is for model.front=transform; other fronts have no bands")
        return self

    @model_validator(mode="after")
    def _check_frame(self) -> Config:
        if self.loss.repetition_weight and self.model.hop_length % 16:
            raise ValueError(
                f"loss.repetition_weight is for frames of a multiple of 16 samples, and model.strides make "
                f"{self.model.hop_length}; set it to 0"
            )
        return self
