"""Encoder and decoder as functions of some frames and of explicit states, in operations that other runtimes have.

All states are zero at the start of a stream. Fourier transforms are replaced by convolutions and matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from codecctl.model.causal import StreamState, prepend_past
from codecctl.model.codebook import Codebook
from codecctl.model.codec import Codec
from codecctl.model.pitch import LongTermPrediction


class Step(nn.Module):
    """The next `n_frames` frames of one stream: what they are coded or decoded from, and the states, in; the result and
    the new states out."""

    def __init__(self, codec: Codec, n_frames: int) -> None:
        super().__init__()
        self.codec, self.n_frames = codec, n_frames
        state = StreamState()
        with torch.no_grad():
            self._run(self.example(n_frames), state)  # also fills the caches, whose tables become constants
        self._layers = list(state.past)
        self.states = [torch.zeros_like(past) for past in state.past.values()]

    def forward(self, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        state = StreamState()
        state.past = {layer: past.clone() for layer, past in zip(self._layers, states, strict=True)}
        y = self._run(x, state)
        return y, *(state.past[layer] for layer in self._layers)

    def example(self, n_frames: int) -> Tensor:
        """An input of so many frames."""
        raise NotImplementedError

    def _run(self, x: Tensor, state: StreamState) -> Tensor:
        raise NotImplementedError


class EncoderStep(Step):
    """[1, 1, T x hop_length] -> codes [1, K, T]"""

    def example(self, n_frames: int) -> Tensor:
        return torch.zeros(1, 1, n_frames * self.codec.hop_length)

    def _run(self, x: Tensor, state: StreamState) -> Tensor:
        return self.codec.quantize(self.codec.encode_latents(x, state=state))


class DecoderStep(Step):
    """Codes [1, K, T] -> [1, 1, T x hop_length], `config.delay` samples late. -1 stands for a code that is not there:
    of codebooks that are not used, and in all of them of the frames after the end."""

    def example(self, n_frames: int) -> Tensor:
        return torch.zeros(1, self.codec.n_codebooks, n_frames, dtype=torch.int64)

    def _run(self, x: Tensor, state: StreamState) -> Tensor:
        return self.codec.decode_latents(_dequantize(self.codec, x), state=state)


def _dequantize(codec: Codec, codes: Tensor) -> Tensor:
    """[B, K, T] -> [B, D, T]; a code of -1 adds nothing."""
    chosen: Sequence[Tensor] = list(codec.quantizer._chosen(codes.clamp(min=0)))
    is_there = (codes >= 0).to(chosen[0].dtype)
    terms = [each * used[..., None] for each, used in zip(chosen, is_there.unbind(dim=1), strict=True)]
    return torch.stack(terms).sum(dim=0).mT


def in_plain_operations(codec: Codec) -> Codec:
    """The same codec; its layers with Fourier transforms compute without them from now on."""
    for module in codec.modules():
        if type(module) in _PLAIN:
            module.__class__ = _PLAIN[type(module)]
    return codec


class PlainOperations(TorchFunctionMode):
    """Operations that the tracer of ONNX does not know, as ones that it does."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func == Tensor.mT.__get__:  # type: ignore[attr-defined]  # a new object each time
            *axes, a, b = range(args[0].dim())
            return args[0].permute(*axes, b, a)
        if func == Tensor.shape.__get__:  # type: ignore[attr-defined]  # numbers: shapes become constants
            return torch.Size(map(int, func(*args)))
        if func is Tensor.unfold:
            return _unfold(*args)
        if func is Tensor.gather and not args[0].numel():
            return torch.empty_like(args[2], dtype=args[0].dtype)
        if func is torch.cat and isinstance(
            args[0], list
        ):  # of tensors that may be empty, as the codes before the first
            return func([x for x in args[0] if x.numel()], *args[1:], **(kwargs or {}))
        if func is torch.split:
            return _split(*args, **(kwargs or {}))
        if func is F.rms_norm:
            return _rms_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _unfold(x: Tensor, axis: int, size: int, step: int) -> Tensor:
    axis = axis % x.dim()
    n_windows = (x.shape[axis] - size) // step + 1
    index = torch.arange(n_windows)[:, None] * step + torch.arange(size)
    windows = x.index_select(axis, index.flatten()).unflatten(axis, (n_windows, size))
    axes = [i for i in range(x.dim() + 1) if i != axis + 1]
    return windows.permute(*axes, axis + 1)


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    length = int(x.shape[dim])
    return [x.narrow(dim, start, min(size, length - start)) for start in range(0, length, size)]


def _rms_norm(x: Tensor, normalized_shape: Any, weight: Tensor | None, eps: float) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps)
    return y if weight is None else y * weight


class _PlainCodebook(Codebook):
    def table(self) -> Tensor:
        """Computed from the codewords in the graph, so that a file holds these once."""
        return self._make_table()


class _PlainLongTermPrediction(LongTermPrediction):
    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, Tensor, Tensor]:
        longer = prepend_past(self, x[:, None], self.n_past, state)[:, 0]
        windows = longer.unfold(-1, self.n_past + self.hop_length, self.hop_length)
        weights, fit = self._periods(windows)
        taps = weights.flip(-1)
        before = _each_with_its_own(windows[..., self.n_past - self.longest : -self.shortest], taps)
        twice = torch.stack([taps, torch.zeros_like(taps)], dim=-1).flatten(2)[..., :-1]
        long_before = _each_with_its_own(windows[..., : -2 * self.shortest], twice)
        return before, long_before, fit

    def _periods(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        products = _each_with_its_own(F.pad(windows, (self.longest, 0)), windows)[..., : -self.shortest].flip(-1)
        return self._weigh(windows, products)


def _each_with_its_own(x: Tensor, taps: Tensor) -> Tensor:
    """Each row of [1, T, L] correlated with the same row of [1, T, k] -> [1, T, L - k + 1]."""
    y: Tensor = _RowsConvolution.apply(x, taps, int(x.shape[1]))
    return y


class _RowsConvolution(torch.autograd.Function):
    """A convolution whose weights are computed, which the tracer refuses: their shape is unknown to it."""

    @staticmethod
    def forward(_: Any, x: Tensor, taps: Tensor, n_rows: int) -> Tensor:
        return F.conv1d(x, taps.permute(1, 0, 2), groups=n_rows)

    @staticmethod
    def symbolic(graph: Any, x: Any, taps: Any, n_rows: int) -> Any:
        return graph.op("Conv", x, graph.op("Transpose", taps, perm_i=[1, 0, 2]), group_i=n_rows)


_PLAIN: dict[type[nn.Module], type[nn.Module]] = {
    Codebook: _PlainCodebook,
    LongTermPrediction: _PlainLongTermPrediction,
}
