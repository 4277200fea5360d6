"""Semantic distillation: the first codebook follows a frozen speech model (Zhang et al. 2024, SpeechTokenizer).

Licences of the teachers, for whoever distributes a trained codec: WavLM's repository is under the MIT licence, but the
model card of its weights points to UniSpeech's, CC BY-SA 3.0. HuBERT (facebook/hubert-base-ls960: Apache-2.0) and
IndicWav2Vec (AI4Bharat: MIT, 40 Indian languages) are clear.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.errors import CodecctlError, UsageError
from codecctl.train.timer import part

if TYPE_CHECKING:
    from codecctl.config.model import ModelConfig
    from codecctl.config.schema import SemanticConfig
    from codecctl.model.codec import Codec, CodecOutput
    from codecctl.model.quantizer import ResidualVectorQuantizer

_KEY = "train.semantic.teacher"
_WITHOUT = "--set loss.semantic_weight=0 trains without a teacher"
_CONFIGS = ["config.json", "preprocessor_config.json"]
_WEIGHTS = ["*.safetensors", "pytorch_model*.bin"]
_UNUSED = {"masked_spec_embed"}  # replaces masked frames in the teacher's own training


class Teacher:
    """A frozen encoder of samples. Not a module, so that no state dict, optimiser or wrapper contains its weights.

    **Alignment.** The teacher's convolutions see R samples (400) a frame and move on by H (320), our hop. With p zeros
    before the signal, its frame t sees the samples from H t - p up to H t - p + R - 1, whose centre is
    H t - p + (R - 1) / 2. Our frame t codes the samples from H t to H (t + 1) - 1, their centre H t + (H - 1) / 2. (It
    is causal, so it looks back further, but no sample after them reaches it, and these are new in it.) The centres
    agree where p = (R - H) / 2 = 40. The teacher gives 1 + floor((p + L + q - R) / H) frames with q zeros behind; for
    L = T H these are T from q = R - H - p = 40 on, the same as before. The transformer behind keeps the frames' order.
    """

    origin = ""
    """The source of its size, if it has no weights."""

    def __init__(self, model: nn.Module, layer: int | Literal["mean"], *, normalize: bool) -> None:
        """`model`: WavLM, HuBERT or wav2vec 2.0 of transformers. `normalize`: it wants items of mean 0, variance 1."""
        self.module = model.eval().requires_grad_(False)
        self._layer = layer
        self._normalize = normalize
        config: Any = model.config
        self.width = int(config.hidden_size)
        self.hop_length = math.prod(config.conv_stride)
        strides = [math.prod(config.conv_stride[:i]) for i in range(len(config.conv_stride))]
        self.receptive_field = 1 + sum((k - 1) * s for k, s in zip(config.conv_kernel, strides, strict=True))

    @classmethod
    def load(cls, config: SemanticConfig, codec: ModelConfig) -> Self:
        """The teacher of a config: from a folder, else from the Hugging Face cache, else from the hub into the cache.

        Raises `CodecctlError` with the way to get it if it is in none of them or broken, `UsageError` if it does not
        fit the codec.
        """
        try:
            with _quiet():
                model, extractor = _load(_find(config.teacher))
        except Exception as error:  # the hub, transformers and parsers of broken files raise whatever they like
            raise CodecctlError(_how_to_get(config.teacher, error)) from None
        _check(model, extractor, config, codec)
        return cls(model, config.layer, normalize=bool(extractor.do_normalize))

    @classmethod
    def without_weights(cls, config: SemanticConfig) -> Self:
        """A teacher of that architecture, on the default device, read from the disk; if it is not there, of
        the size of WavLM base plus."""
        from transformers import AutoModel, WavLMConfig

        found = _local_config(config.teacher)
        with _quiet():
            model = AutoModel.from_config(found or WavLMConfig())  # type: ignore[no-untyped-call]
            teacher = cls(model, config.layer, normalize=True)
        teacher.origin = (
            f"as {config.teacher} has it" if found else f"{config.teacher} is not here: the size of a base WavLM"
        )
        return teacher

    def to(self, device: torch.device) -> Self:
        self.module.to(device)
        return self

    @part("teacher")
    @torch.no_grad()
    def __call__(self, audio: Tensor) -> Tensor:
        """Crops [B, 1, L] -> targets [B, T, D_teacher] in float32, T = ceil(L / hop). Obeys autocast."""
        samples = audio[:, 0].float()  # [B, L]
        if self._normalize:
            variance, mean = torch.var_mean(samples, dim=-1, keepdim=True, correction=0)
            samples = (samples - mean) / (variance + 1e-7).sqrt()
        with torch.device(samples.device):  # WavLM's tables of positions: some versions make them on the CPU
            padded = F.pad(samples, self._padding(samples.shape[-1]))
            states = self.module(padded, output_hidden_states=True).hidden_states
        if self._layer == "mean":
            return torch.stack([state.float() for state in states[1:]]).mean(dim=0)
        return states[self._layer].float()

    def _padding(self, n_samples: int) -> tuple[int, int]:
        """Zeros before and after; see the class for why."""
        overhang = self.receptive_field - self.hop_length
        before = overhang // 2
        return before, overhang - before + -n_samples % self.hop_length


class SemanticHead(nn.Module):
    """Codewords of the first codebook [B, D, T] -> [B, T, D_teacher], compared with the teacher. Not part of models."""

    def __init__(self, width: int, teacher_width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, teacher_width)

    def forward(self, codewords: Tensor) -> Tensor:
        return self.project(codewords.mT)


class Generator(nn.Module):
    """What the codec's optimiser trains, as one module that one wrapper distributes over several cards: the codec and,
    with a teacher, the projection of the first codebook into the teacher's space."""

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


def first_codebook(quantizer: ResidualVectorQuantizer, latents: Tensor, codes: Tensor) -> Tensor:
    """Latents [B, D, T] and codes [B, K, T] -> codewords of the first codebook [B, D, T], straight-through."""
    latents = latents.float()
    chosen = quantizer.codebooks[0].lookup(codes[:, 0]).mT
    return latents + (chosen - latents).detach()  # value of the codewords, gradient of the latents


def semantic_loss(projected: Tensor, target: Tensor) -> Tensor:
    """-log sigmoid(cosine), from 1.31 (opposite) by 0.69 (unrelated) to 0.31 (the same direction); both [B, T, D].

    A cosine for each channel, along time: the D-axis loss of Zhang et al. 2024, section 3.3.
    """
    with torch.autocast(projected.device.type, enabled=False):
        projected, target = projected.float(), target.float()
        return -F.logsigmoid(F.cosine_similarity(projected, target, dim=1, eps=1e-6)).mean()


def _local_config(teacher: str) -> Any | None:
    """The architecture of a teacher in a folder or in the cache, without the network; else None."""
    from huggingface_hub import try_to_load_from_cache
    from transformers import AutoConfig

    name, _, commit = teacher.partition("@")
    try:
        file: Any = Path(teacher) / _CONFIGS[0]
        if not Path(teacher).is_dir():
            file = try_to_load_from_cache(name, _CONFIGS[0], revision=commit or None)
        return AutoConfig.from_pretrained(Path(file).parent) if isinstance(file, str | Path) else None
    except (OSError, ValueError):  # no name of the hub, or a folder without a config
        return None


def _find(teacher: str) -> Path:
    """The folder of `name` or `name@commit`; from the cache, without the network; else from the hub."""
    if Path(teacher).is_dir():
        return Path(teacher)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    name, _, commit = teacher.partition("@")
    try:
        cached = Path(snapshot_download(name, revision=commit or None, local_files_only=True))
        if all(any(cached.glob(pattern)) for pattern in _CONFIGS) and any(map(any, map(cached.glob, _WEIGHTS))):
            return cached
    except LocalEntryNotFoundError:
        pass
    return Path(snapshot_download(name, revision=commit or None, allow_patterns=[*_CONFIGS, *_WEIGHTS, "*.index.json"]))


def _load(folder: Path) -> tuple[Any, Any]:
    """The model in a folder and its feature extractor. Raises whatever transformers does."""
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)  # type: ignore[no-untyped-call]
    model, found = AutoModel.from_pretrained(folder, trust_remote_code=False, output_loading_info=True)
    if missing := sorted(set(found["missing_keys"]) - _UNUSED):
        raise ValueError(f"its file lacks the weight '{missing[0]}'")  # transformers would draw it at random
    return model.float(), extractor  # files may be of half precision


def _check(model: Any, extractor: Any, config: SemanticConfig, codec: ModelConfig) -> None:
    """Raises `UsageError` if the teacher's frames do not match the codec's."""
    name = f"{_KEY}: '{config.teacher}'"
    strides = getattr(model.config, "conv_stride", None)
    if not strides or not hasattr(extractor, "do_normalize"):
        raise UsageError(f"{name} is no encoder of samples; take a WavLM, HuBERT or wav2vec 2.0, or {_WITHOUT}")
    if extractor.sampling_rate != codec.sample_rate:
        raise UsageError(
            f"{name} expects {extractor.sampling_rate} Hz and model.sample_rate is {codec.sample_rate}; take a "
            f"teacher of that rate, or {_WITHOUT}"
        )
    if math.prod(strides) != codec.hop_length:
        raise UsageError(
            f"{name} has a frame every {math.prod(strides)} samples and model.front.strides make {codec.hop_length}; "
            f"take a teacher of the same hop, or {_WITHOUT}"
        )
    n_layers = model.config.num_hidden_layers
    if config.layer != "mean" and config.layer > n_layers:
        raise UsageError(f"train.semantic.layer: {config.layer}, but '{config.teacher}' has {n_layers} layers")


def _how_to_get(teacher: str, error: Exception) -> str:
    """One line: the problem with the teacher and how to get it."""
    if Path(teacher).is_dir():
        return f"{_KEY}: {teacher} cannot be loaded ({_reason(error)}); fetch it again, or {_WITHOUT}"
    name, _, commit = teacher.partition("@")
    revision = f" --revision {commit}" if commit else ""
    folder = f"teachers/{name.rpartition('/')[2]}"
    return (
        f"{_KEY}: '{teacher}' cannot be loaded ({_reason(error)}); where there is a network: "
        f"`hf download {name}{revision} --local-dir {folder}`, then --set {_KEY}={folder}; {_WITHOUT}"
    )


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    reasons = {
        errors.GatedRepoError: "its terms must be accepted on its page, then `hf auth login`",
        errors.RepositoryNotFoundError: "the hub has no such model, or keeps it private",
        errors.RevisionNotFoundError: "the hub does not have that commit",
        errors.LocalEntryNotFoundError: "not in the cache, and the hub is out of reach or HF_HUB_OFFLINE is set",
        errors.HFValidationError: "no such folder, and no name on the hub",
    }
    for kind, reason in reasons.items():
        if isinstance(error, kind) or isinstance(error.__cause__, kind):
            return reason
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Within: no progress bars and notes of the hub and transformers."""
    from transformers.utils import logging as transformers_logging

    had_bars, before = transformers_logging.is_progress_bar_enabled(), logging.root.manager.disable
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
