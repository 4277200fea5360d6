"""Discriminators of waveforms folded by a period and of complex spectra in bands, and their losses.

As in Kumar et al. 2023 (Improved RVQGAN, section 3.3); the multi-period half is from Kong et al. 2020
(HiFi-GAN, section 2.3). Losses are sums over the discriminators, as there: the default weights assume it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from codecctl.audio.spectrum import Stft
from codecctl.config.schema import AdversarialConfig

BANDS = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
"""Edges of the bands, as shares of the spectrum."""
_QUIET = 1e-2  # RMS; softer crops are not raised to full level, or noise on silence would outweigh speech
_FLOOR = 1e-5


@torch.library.custom_op("codecctl::l1_means", mutates_args=())
def l1_means(target: Tensor, x: Tensor) -> Tensor:
    """[B, ...] twice -> [2, B] in float32 or wider: means of |target - x| and of |target|, item by item. Only `x` gets
    a gradient, and only from the first.

    One operator that keeps nothing but its inputs: feature maps are many times the audio, and in
    plain torch their distance is ten kernels, forward and backward, over float32 copies of them.
    """
    means: Tensor = _fastest(_means, x)(*_rows(x, target, x))
    return means


def _fastest(formula: Callable[..., Any], x: Tensor) -> Callable[..., Any]:
    """The formula as the device of `x` computes it fastest: on CUDA as one compiled kernel."""
    return _compiled(formula) if x.is_cuda else formula


@cache
def _compiled(formula: Callable[..., Any]) -> Callable[..., Any]:
    # For all shapes at once: one that is made for a shape would be made anew for each feature map.
    return torch.compile(formula, dynamic=True)


def _rows(like: Tensor, *maps: Tensor) -> list[Tensor]:
    """Each map [B, ...] -> [B, N] in the order of `like` in memory, so that one kernel serves all of them.

    Not as views, from which the compiler would find the shapes of the maps: `data` shares the memory alone."""
    channels_last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return [(m.permute(0, 2, 3, 1) if channels_last else m).flatten(1).data for m in maps]


def _means(target: Tensor, x: Tensor) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    target, x = target.detach().to(wide), x.to(wide)
    return torch.stack([(target - x).abs().mean(dim=1), target.abs().mean(dim=1)])


def _gradient(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    """Of `x` [B, N], from that of the first means [B]."""
    return (x - target).sign() * (gradient / x.shape[1]).to(x.dtype)[:, None]


@torch.library.custom_op("codecctl::l1_means_backward", mutates_args=())
def _l1_means_backward(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    x_gradient = torch.empty_like(x)
    (rows,) = _rows(x, x_gradient)
    rows.copy_(_fastest(_gradient, x)(gradient, *_rows(x, target, x)))
    return x_gradient


@l1_means.register_fake
def _(target: Tensor, x: Tensor) -> Tensor:
    return x.new_empty(2, len(x), dtype=torch.promote_types(x.dtype, torch.float32))


@_l1_means_backward.register_fake
def _(gradient: Tensor, target: Tensor, x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _save_inputs(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
    x_gradient: Tensor = _l1_means_backward(gradient[0], *ctx.saved_tensors)
    return None, x_gradient


l1_means.register_autograd(_backward, setup_context=_save_inputs)


class Judgement:
    """The output of one discriminator for a batch. Not a tuple or dataclass: Fabric would convert every feature map in
    it from bfloat16 to float32."""

    def __init__(self, score: Tensor, features: list[Tensor]) -> None:
        self.score = score  # [B, 1, ...] near 1: judged as real; near 0: as decoded
        self.features = features  # [B, C, ...] each hidden layer

    def halves(self) -> tuple[Judgement, Judgement]:
        """Of the first half of the batch, and of the second."""
        scores, features = self.score.chunk(2), [feature.chunk(2) for feature in self.features]
        first, second = (Judgement(scores[i], [pair[i] for pair in features]) for i in (0, 1))
        return first, second


class Discriminators(nn.Module):
    """Audio [B, 1, L], any L from one sample up -> a `Judgement` from each discriminator.

    Every item is brought to the same level first: levels of corpora differ by 40 dB and are left to the reconstruction
    losses. Spectra are float32 even under autocast.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        periods = [PeriodDiscriminator(period, config.channels) for period in config.periods]
        windows = [SpectralDiscriminator(window, config.channels) for window in config.stft_windows]
        self.all = nn.ModuleList([*periods, *windows])

    def forward(self, audio: Tensor) -> list[Judgement]:
        audio = _level(audio)
        return [discriminator(audio) for discriminator in self.all]


class Layers(nn.ModuleList):
    """Convolutions with a leaky ReLU each -> all their outputs."""

    def forward(self, x: Tensor) -> list[Tensor]:
        # Tensor cores need channels last. On the CPU a spectrum's strides look like channels last, and oneDNN's
        # convolutions of so few channels and columns may then return NaN.
        channels_last = x.is_cuda and torch.is_autocast_enabled("cuda")
        form = torch.channels_last if channels_last else torch.contiguous_format
        features = []
        for layer in self:
            x = F.leaky_relu(layer(x.contiguous(memory_format=form)), 0.1, inplace=True)
            features.append(x)
        return features


class PeriodDiscriminator(nn.Module):
    """[B, 1, L] -> `Judgement`: columns hold every period-th sample, and convolutions run down the columns."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, *(channels * factor for factor in (1, 4, 16, 32, 32))]
        strides = (3, 3, 3, 3, 1)
        self.layers = Layers(
            _conv(n_in, n_out, (5, 1), (stride, 1))
            for (n_in, n_out), stride in zip(pairwise(widths), strides, strict=True)
        )
        self.last = _conv(widths[-1], 1, (3, 1))

    def forward(self, audio: Tensor) -> Judgement:
        audio = F.pad(audio, (0, -audio.shape[-1] % self.period))
        x = rearrange(audio, "b c (t p) -> b c t p", p=self.period)
        features = self.layers(x)
        return Judgement(self.last(features[-1]), features)


class SpectralDiscriminator(nn.Module):
    """[B, 1, L] -> `Judgement`: the real and imaginary parts of each band of the spectrum have layers of their own."""

    def __init__(self, window: int, channels: int) -> None:
        super().__init__()
        self.stft = Stft(window)
        n_frequencies = window // 2 + 1
        edges = [round(edge * n_frequencies) for edge in BANDS]
        self.bands = list(pairwise(edges))
        self.stacks = nn.ModuleList(_band_layers(channels) for _ in self.bands)
        self.last = _conv(channels, 1, (3, 3))

    def forward(self, audio: Tensor) -> Judgement:
        spectrum = torch.view_as_real(self.stft(audio))  # [B, F, T', 2]
        x = rearrange(spectrum, "b f t c -> b c t f")
        bands = [stack(x[..., low:high]) for (low, high), stack in zip(self.bands, self.stacks, strict=True)]
        score = self.last(torch.cat([features[-1] for features in bands], dim=-1))
        return Judgement(score, [feature for features in bands for feature in features])


def discriminator_loss(real: Sequence[Judgement], decoded: Sequence[Judgement]) -> Tensor:
    """Least squares towards 1 for real and 0 for decoded speech (Kong et al. 2020, eq. 1); `decoded` from detached
    audio."""
    return torch.stack([_square(1 - r.score) + _square(d.score) for r, d in zip(real, decoded, strict=True)]).sum()


def adversarial_loss(decoded: Sequence[Judgement]) -> Tensor:
    """Minimised by the codec: least squares of the decoded speech's scores towards 1 (Kong et al. 2020, eq. 2)."""
    return torch.stack([_square(1 - d.score) for d in decoded]).sum()


def feature_loss(real: Sequence[Judgement], decoded: Sequence[Judgement]) -> Tensor:
    """L1 of the hidden layers (Kong et al. 2020, eq. 4), each relative to the mean magnitude of the map of real speech
    (Defossez et al. 2022, section 3.4), mean over a discriminator's maps. `real` is a target: no gradient goes there.

    A map is relative item by item, so that the mean over a batch is that over its halves.
    """
    pairs = [zip(r.features, d.features, strict=True) for r, d in zip(real, decoded, strict=True)]
    means = torch.stack([l1_means(a.detach(), b) for of_one in pairs for a, b in of_one])  # [n_maps, 2, B]
    relative = (means[:, 0] / means[:, 1].clamp(min=_FLOOR)).mean(dim=1)
    return torch.stack([maps.mean() for maps in torch.split(relative, [len(r.features) for r in real])]).sum()


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within: gradients pass through `module`, but its parameters get none."""
    before = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    module.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def _level(audio: Tensor) -> Tensor:
    """Float32 audio at an RMS of one, item by item."""
    audio = audio.float()
    # The floor sits under the root: its gradient is infinite at zero, and silence is common.
    power = audio.square().mean(dim=(1, 2), keepdim=True).clamp(min=_QUIET**2)
    return audio * power.rsqrt()


def _band_layers(channels: int) -> Layers:
    narrowing = [_conv(channels, channels, (3, 9), (1, 2)) for _ in range(3)]
    return Layers([_conv(2, channels, (3, 9)), *narrowing, _conv(channels, channels, (3, 3))])


def _conv(n_in: int, n_out: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)) -> nn.Module:
    """A weight-normed convolution, zeros on all sides: as long as its input, divided by the stride."""
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding=(kernel[0] // 2, kernel[1] // 2))
    normed: nn.Module = weight_norm(conv)
    return normed


def _square(x: Tensor) -> Tensor:
    return x.float().square().mean()
