"""The configuration: every key with its default, unit and help. The defaults are the production codec.

Sections are frozen and refuse unknown keys; what follows from other keys is a property and stored nowhere.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from codecctl.config.model import (
    Count,
    ModelConfig,
    Positive,
    Probability,
    Section,
    Weight,
)

_Window = Annotated[int, Field(ge=4, le=2**63 - 1)]  # samples; spectra are a quarter of it apart
_Beta = Annotated[float, Field(ge=0, lt=1)]


class MixConfig(Section):
    """How often each (dataset, language) is drawn in training, beyond its hours."""

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
    crop_seconds: float = Field(5.0, gt=0, description="length of a training crop")
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
    n_workers: Count = Field(
        4, description="threads, or with augmentations processes, that cut crops ahead of the step; 0: none"
    )

    @model_validator(mode="after")
    def _check_noise(self) -> DataConfig:
        if self.noise_snr_db is not None and self.noise_snr_db[0] > self.noise_snr_db[1]:
            raise ValueError(f"noise_snr_db: expected the smaller number first, got {list(self.noise_snr_db)}")
        return self


class AdversarialConfig(Section):
    """The discriminators, and when they begin to count."""

    periods: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (2, 3, 5, 7, 11), description="samples; a discriminator each, of the waveform folded by it; []: none"
    )
    stft_windows: tuple[Annotated[int, Field(ge=64, multiple_of=4)], ...] = Field(
        (2048, 1024, 512), description="samples; a discriminator each, of complex spectra; []: none"
    )
    channels: Positive = Field(32, description="of their first layers; all others in proportion")
    heard_seconds: float | None = Field(
        1.0, ge=0.01, description="part of each crop that they get, drawn anew at each step; null: all"
    )
    start_epoch: Count = Field(5, description="epoch at whose start the adversarial losses begin")
    warmup_steps: Count = Field(1000, description="steps before that, in which the discriminators already learn")
    ramp_steps: Count = Field(5000, description="steps in which their weights rise from 0 to the full")
    teach_every: Positive = Field(1, description="steps from one of their updates to the next")
    learning_rate: float = Field(1e-4, gt=0, description="of their AdamW")

    @model_validator(mode="after")
    def _check_any(self) -> AdversarialConfig:
        if not self.periods and not self.stft_windows:
            raise ValueError("periods and stft_windows are both empty; leave one discriminator at least")
        return self


class SemanticConfig(Section):
    """The frozen speech model whose hidden states the first codebook follows."""

    teacher: str = Field(
        "microsoft/wavlm-base-plus@4c66d4806a428f2e922ccfa1a962776e232d487b",
        min_length=1,
        description="encoder of samples on the Hugging Face hub, as name@commit, or a folder that holds one",
    )
    layer: Count | Literal["mean"] = Field(
        "mean", description="0: before the first layer, n: after it; mean: of 1 to n"
    )


class LossWeights(Section):
    """The table of losses: a loss is one row, `NAME_weight`."""

    waveform_weight: Weight = Field(1.0, description="L1 of the samples")
    spectral_weight: Weight = Field(1.0, description="multi-scale STFT magnitudes, linear and logarithmic")
    mel_weight: Weight = Field(15.0, description="multi-scale log-mel L1")
    average_spectrum_weight: Weight = Field(0.0, description="mean power of each mel band over a crop; 0: off")
    complex_weight: Weight = Field(0.0, description="complex spectra under a power law; 0: off")
    repetition_weight: Weight = Field(0.0, description="the same waveform in frame after frame, a buzz; 0: off")
    commitment_weight: Weight = Field(0.25, description="encoder outputs to their codewords, mean over the codebooks")
    semantic_weight: Weight = Field(10.0, description="first codebook to the teacher's hidden states; 0: no teacher")
    adversarial_weight: Weight = Field(1.0, description="decoded speech judged as real by the discriminators; 0: off")
    feature_weight: Weight = Field(2.0, description="hidden layers of the discriminators; 0: off")

    @property
    def weights(self) -> dict[str, float]:
        """By the name of the loss."""
        return {name.removesuffix("_weight"): getattr(self, name) for name in LossWeights.model_fields}

    @property
    def is_adversarial(self) -> bool:
        return bool(self.adversarial_weight or self.feature_weight)


class LossConfig(LossWeights):
    """What training minimises: the weight of each loss and the windows of the spectral ones."""

    spectral_windows: tuple[_Window, ...] = Field((512, 1024, 2048), min_length=1, description="STFT windows")
    complex_below_hz: float | None = Field(None, gt=0, description="upper frequency of the complex loss; null: Nyquist")
    mel_windows: tuple[_Window, ...] = Field((64, 128, 256, 512, 1024, 2048), min_length=1, description="samples")
    n_mels: tuple[Positive, ...] = Field((10, 20, 40, 80, 80, 80), min_length=1, description="of each mel window")

    @model_validator(mode="after")
    def _check_mel(self) -> LossConfig:
        if len(self.n_mels) != len(self.mel_windows):
            raise ValueError(f"n_mels has {len(self.n_mels)} entries and mel_windows {len(self.mel_windows)}")
        return self


class GpuConfig(Section):
    """The card a profile was written for."""

    name: str = Field(description="part of the name that the driver gives it, e.g. RTX 4090")
    memory_gb: float = Field(gt=0, description="memory of the card")
    price_per_hour_usd: float = Field(ge=0, description="rent of the card, a rough market figure")
    peak_tflops: float | None = Field(None, gt=0, description="its maker's figure for dense bfloat16 matrix products")
    bandwidth_gb_per_second: float | None = Field(None, gt=0, description="its maker's figure for the memory")


class TrainConfig(Section):
    """The optimiser, the loop, and its files."""

    seed: Count = Field(
        0, lt=2**32, description="of weights, crops and dropout; a step's randomness follows from (seed, step)"
    )  # torch's generator on the CPU would pass over the bits above
    n_steps: Positive = Field(400_000, description="updates in the whole run")
    max_minutes: float | None = Field(
        None, gt=0, description="train and resume save and exit after so many minutes, as by --max-minutes"
    )
    batch_size: Positive = Field(16, description="crops that one card takes at a time")
    accumulate: Positive = Field(1, description="batches whose gradients are added for one step")
    learning_rate: float = Field(1e-4, gt=0, description="of AdamW, reached after the warm-up")
    final_rate_share: Probability = Field(0.1, description="of all learning rates, where the cosine ends at n_steps")
    warmup_steps: Count = Field(1000, description="steps of linear rise")
    betas: tuple[_Beta, _Beta] = Field((0.8, 0.99), description="of AdamW")
    weight_decay: Weight = Field(0.01, description="of AdamW, on matrices and kernels only")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    ema_decay: Probability = Field(0.999, description="of the average of the weights that is validated and exported")
    freeze: tuple[Literal["encoder", "quantizer", "decoder"], ...] = Field((), description="parts that do not learn")
    adversarial: AdversarialConfig = AdversarialConfig()
    semantic: SemanticConfig = SemanticConfig()
    kmeans_vectors: Positive = Field(40_960, description="latent frames from which the codebooks start")
    precision: Literal["float32", "bfloat16"] = Field("float32", description="the quantizer is always float32")
    log_every_steps: Positive = Field(50, description="a line in metrics.jsonl and TensorBoard")
    validate_every_steps: Positive = Field(5000, description="validation, and best.pt if it improved")
    checkpoint_every_steps: Positive = Field(1000, description="last.pt")
    keep_checkpoints: Positive = Field(2, description="the newest so many; best.pt comes on top")
    cuda_graphs: bool = Field(True, description="on one card: a step is recorded once and replayed")
    compile: bool = Field(
        False, description="torch.compile the residual units and transformer layers; needs a C compiler"
    )
    gpu: GpuConfig | None = Field(None, description="set by --gpu")

    @property
    def n_crops(self) -> int:
        """Of a step on one card."""
        return self.batch_size * self.accumulate


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

    @property
    def crop_samples(self) -> int:
        """Of a training crop, in whole frames."""
        n_frames = max(1, round(self.data.crop_seconds * self.model.frame_rate))
        return n_frames * self.model.hop_length

    @model_validator(mode="after")
    def _check_frame(self) -> Config:
        if self.loss.repetition_weight and self.model.hop_length % 16:
            raise ValueError(
                f"loss.repetition_weight is for frames of a multiple of 16 samples, and model.front makes "
                f"{self.model.hop_length}; set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _check_learning(self) -> Config:
        if {"encoder", "decoder"} <= {*self.train.freeze} and not self.loss.semantic_weight:
            raise ValueError("train.freeze: without encoder and decoder there is nothing to learn; leave one out of it")
        if not any(self.loss.weights.values()):
            raise ValueError("loss: no weight is above 0; set one, such as loss.mel_weight")
        return self
