"""A step of a stream as a graph. A frame is hundreds of small operators, and Python takes longer to call them than they
take to compute.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from codecctl.model.causal import StreamState

if TYPE_CHECKING:
    from codecctl.model.codec import Codec

_WARM_UP = 3  # calls, in which the graph is optimised
# Of each codec by name and shape, each with what it was made of. Not attributes of the codec, whose copies need others.
_shared: WeakKeyDictionary[Codec, dict[Any, tuple[Any, TracedStep]]] = WeakKeyDictionary()


def is_traceable(codec: Codec) -> bool:
    """On the CPU, in inference: the graph keeps the weights of the moment."""
    return next(codec.buffers()).device.type == "cpu" and not codec.training


def shared_step(
    codec: Codec, name: str, run: Callable[[Tensor, StreamState], Tensor], parts: list[nn.Module], example: Tensor
) -> TracedStep:
    """The `TracedStep` of `run`, one for all streams of the codec. It is made again when the weights or layers of
    `parts` have changed. `name` says which `run` it is."""
    module = nn.ModuleList(parts)
    weights = [weight.detach() for weight in (*module.parameters(), *module.buffers())]
    if any(weight.is_inference() for weight in weights):  # no version then
        return TracedStep(run, module, example)
    steps, key = _shared.setdefault(codec, {}), (name, example.shape)
    contents = [layer for part in parts for layer in part.modules()], [_identity(weight) for weight in weights]
    if key not in steps or steps[key][0][:2] != contents:
        # With the weights, or others could have their addresses one day.
        steps[key] = (*contents, weights), TracedStep(run, module, example)
    return steps[key][1]


def _identity(weight: Tensor) -> tuple[object, ...]:
    return weight.data_ptr(), weight.shape, weight.dtype, weight._version


class TracedStep:
    """`run` for chunks of the shape of `example`: the same operators, called from a graph (TorchScript)."""

    @torch.no_grad()
    def __init__(self, run: Callable[[Tensor, StreamState], Tensor], module: nn.Module, example: Tensor) -> None:
        """`module` has the weights of `run`, and better no others: the graph gets copies."""
        self._shape = example.shape
        state = StreamState()
        run(example, state)
        self._layers = list(state.past)
        self._start = [torch.zeros_like(past) for past in state.past.values()]
        step = _Step(run, module, self._layers).eval()
        with warnings.catch_warnings(), _in_full_precision():
            # Of sizes that become constant, as they should; and of torch.compile, which needs a C compiler instead.
            warnings.simplefilter("ignore")
            inputs = (example, *(past.clone() for past in self._start))
            traced = torch.jit.trace(step, inputs, check_trace=False)  # type: ignore[no-untyped-call]
            self._graph = torch.jit.freeze(traced)
        for _ in range(_WARM_UP):
            self(example, StreamState())

    def takes(self, chunk: Tensor) -> bool:
        return chunk.shape == self._shape

    def __call__(self, chunk: Tensor, state: StreamState) -> Tensor:
        """The output for the next chunk of the stream of `state`, which moves on."""
        if not state.past:
            state.past.update(zip(self._layers, (past.clone() for past in self._start), strict=True))
        with _in_full_precision():
            output, *past = self._graph(chunk, *(state.past[layer] for layer in self._layers))
        state.past.update(zip(self._layers, past, strict=True))
        return output


class _Step(nn.Module):
    """`run` with its state as arguments and results."""

    def __init__(
        self, run: Callable[[Tensor, StreamState], Tensor], module: nn.Module, layers: list[nn.Module]
    ) -> None:
        super().__init__()
        self.module = module  # whose weights the graph finds
        self._run, self._layers = run, tuple(layers)

    def forward(self, chunk: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        state = StreamState()
        state.past.update(zip(self._layers, past, strict=True))
        output = self._run(chunk, state)
        return output, *(state.past[layer] for layer in self._layers)


def _in_full_precision() -> contextlib.AbstractContextManager[object]:
    """Codes do not depend on what surrounds the call."""
    is_needed = torch.is_autocast_enabled("cpu")  # rarely, and the context takes a while
    return torch.autocast("cpu", enabled=False) if is_needed else contextlib.nullcontext()
