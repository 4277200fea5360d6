"""The arithmetic of the large matrices on a CPU: a stream of single frames reads all of them for each frame.

They are those of the transformers, of the decoder's frame units, of the convolutions with many channels (in the
encoder, on which the codes depend, with more), and of large codebooks, of which the nearest codewords are then compared
in float32. Everything else stays float32: first and last convolutions, norms, the residual stream.
"""

from __future__ import annotations

import contextlib
import statistics
import time
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codecctl.errors import UsageError
from codecctl.model.causal import CausalConv1d, CausalConvTranspose1d
from codecctl.model.codebook import Codebook
from codecctl.model.codec import Codec
from codecctl.model.fronts.transform import FrameUnit
from codecctl.model.transformer import TransformerLayer

ARITHMETICS = ("float32", "bfloat16", "int8")
_PROBE_RUNS, _WARM_UP = 9, 3
_OTHER_VALUES = 2**23  # read between the probe's runs, as other weights are between two frames
# Values of a matrix outside of the transformers. Of smaller ones the reading does not count; the arithmetic does, but
# fewer bits in the encoder cost codes.
_LARGE, _LARGE_IN_DECODER = 2**18, 2**15
_SMALL = 2**12  # of a smaller one the calls take longer than the product
_UNSUPPORTED = (RuntimeError, AttributeError, NotImplementedError)  # a build without the kernels, or a torch without


class Int8Matrix(nn.Module):
    """[..., K] -> [..., N], a product with 8-bit integers, one scale for each row and for each input vector, plus
    `bias` [N] in float32.

    An input's scale does not depend on other frames, and the sums are exact: streams equal files bit for bit.
    """

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` [N, K]"""
        super().__init__()
        matrix = matrix.detach().contiguous()
        scale, zero = _peak(matrix)[:, 0].double() / 127, torch.zeros(len(matrix), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # quantized tensors are to leave torch some day
            quantized = torch.quantize_per_channel(matrix, scale, zero, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        self._n_levels = 127 if _has_vnni() else 63  # without VNNI the kernel adds two products in 16 bits

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        peak = _peak(x)
        y: Tensor = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / peak, 1 / self._n_levels, 128, self._packed
        )
        return y.mul_(peak) if bias is None else torch.addcmul(bias, y, peak)


class BFloat16Matrix(nn.Module):
    """[..., K] -> [..., N], a product in bfloat16, plus `bias` [N] in float32."""

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` [N, K]"""
        super().__init__()
        self._matrix = matrix.detach().bfloat16()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x.to(self._matrix.dtype), self._matrix).to(x.dtype)
        return y if bias is None else y.add_(bias)


class Float32Matrix(nn.Module):
    """[..., K] -> [..., N], a product in float32, plus `bias` [N], by oneDNN.

    For the rows of a frame this takes half the time of torch's own product on a processor that is not Intel's.
    """

    def __init__(self, matrix: Tensor) -> None:
        """`matrix` [N, K]"""
        super().__init__()
        self._matrix = matrix.detach()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        y: Tensor = _one_dnn().product(x, self._matrix, bias)
        return y


class BiasedProduct(nn.Module):
    """[..., K] -> [..., N], the product of one of these matrices, plus a layer's bias [N]."""

    def __init__(self, product: nn.Module, linear: nn.Linear) -> None:
        super().__init__()
        self.product, self.bias = product, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.product(x, self.bias)
        return y


_MATRICES: dict[str, type[BFloat16Matrix | Int8Matrix]] = {"bfloat16": BFloat16Matrix, "int8": Int8Matrix}


def set_precision(codec: Codec, precision: str = "auto") -> str:
    """Compute the large matrices of a float32 codec on the CPU in this arithmetic from now on; `auto`: in the one that
    is fastest for a single frame. Returns the arithmetic.

    The codes of whole signals change too: files are for a second codec.

    Raises `UsageError` for another name, for a codec elsewhere or set before, and if this build of torch cannot compute
    it.
    """
    if any(isinstance(module, tuple(_MATRICES.values())) for module in codec.modules()):
        raise UsageError(f"precision {precision}: was set before, and float32 is gone; load the codec again")
    weight = next(codec.parameters())
    is_plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if precision == "auto":
        precision = _fastest(codec) if is_plain else "float32"
    if precision not in ARITHMETICS:
        raise UsageError(f"precision {precision}: expected auto, {', '.join(ARITHMETICS)}")
    if precision != "float32":
        if not is_plain:
            raise UsageError(f"precision {precision}: only on the CPU, for a model in float32; try the device cpu")
        try:
            _replace_matrices(codec, _MATRICES[precision])
        except _UNSUPPORTED as error:
            raise UsageError(f"precision {precision}: not possible with this torch on this machine") from error
    return precision


def _replace_matrices(codec: Codec, make: Callable[[Tensor], nn.Module]) -> None:
    in_decoder = set(codec.decoder.modules())
    for module in list(codec.modules()):
        if isinstance(module, TransformerLayer):
            for part in module.children():
                for name, linear in part.named_children():
                    setattr(part, name, make(linear.get_parameter("weight")))
        elif isinstance(module, FrameUnit) and module in in_decoder:
            for name in ("expand", "contract"):
                linear = getattr(module, name)
                if linear.weight.numel() >= _LARGE_IN_DECODER:
                    setattr(module, name, BiasedProduct(make(linear.weight), linear))
        elif isinstance(module, (CausalConv1d, CausalConvTranspose1d)):
            n_values, is_wide = module.matrix.numel(), module.conv.kernel_size[0] > 1
            if n_values >= (_LARGE_IN_DECODER if module in in_decoder else _LARGE):
                module.product = make(module.matrix)
            elif n_values >= _SMALL and is_wide and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
                module.short_product = Float32Matrix(module.matrix)
        elif isinstance(module, Codebook) and module.codewords.numel() >= _LARGE:
            module.product = make(-2 * module.codewords)


@torch.inference_mode()
def _fastest(codec: Codec) -> str:
    """By the time of one transformer layer's matrices for one frame, in a graph as a stream calls them."""
    layer = next((module for module in codec.modules() if isinstance(module, TransformerLayer)), None)
    if layer is None:
        return "float32"
    linears = [module for module in layer.modules() if isinstance(module, nn.Linear)]
    frames = [torch.ones(1, 1, linear.in_features) for linear in linears]
    products = {"float32": _in_graph(nn.ModuleList(linears), frames)}
    for name, make in _MATRICES.items():
        with contextlib.suppress(*_UNSUPPORTED):
            products[name] = _in_graph(nn.ModuleList(make(linear.weight) for linear in linears), frames)
    times: dict[str, list[float]] = {name: [] for name in products}
    other = torch.ones(_OTHER_VALUES)
    for _ in range(_PROBE_RUNS):
        for name, product in products.items():
            other.sum()  # out of the cache with the weights
            start = time.perf_counter()
            product(*frames)
            times[name].append(time.perf_counter() - start)
    return min(times, key=lambda name: statistics.median(times[name]))


class _Products(nn.Module):
    """Each product of its own frame."""

    def __init__(self, products: nn.ModuleList) -> None:
        super().__init__()
        self.products = products

    def forward(self, *frames: Tensor) -> list[Tensor]:
        return [product(frame) for product, frame in zip(self.products, frames, strict=True)]


def _in_graph(products: nn.ModuleList, frames: list[Tensor]) -> Callable[..., Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile, see traced.py
        graph = torch.jit.trace(_Products(products).eval(), tuple(frames), check_trace=False)  # type: ignore[no-untyped-call]
        product: Callable[..., Any] = torch.jit.freeze(graph)
    for _ in range(_WARM_UP):
        product(*frames)
    return product


@cache
def _one_dnn() -> torch.jit.CompilationUnit:
    """Its product as a script: a trace cannot record the empty list of numbers that it takes."""
    return torch.jit.CompilationUnit("""
def product(x: Tensor, matrix: Tensor, bias: Optional[Tensor]) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, matrix, bias, "none", [], "")
""")


def _peak(x: Tensor) -> Tensor:
    """[..., D] -> [..., 1], the largest magnitude; of zeros, the smallest normal number."""
    # Not vector_norm, which takes ten times as long: it is not vectorised.
    return x.abs().amax(dim=-1, keepdim=True).clamp_(min=torch.finfo(x.dtype).tiny)


def _has_vnni() -> bool:
    return bool(getattr(torch.cpu, "_is_vnni_supported", bool)())
