"""Training steps as CUDA graphs: recorded once, then replayed, so that the host launches one graph for a step instead
of thousands of kernels. Launched one by one, the card waits for the host most of the time.

What differs from step to step is copied into tensors that the recorded kernels read: audio, learning rates, weights of
losses, random numbers. Which kernels run depends on the kind of a step alone (`_kind`); each kind has its own graph.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from codecctl.train.device import pinned, sent
from codecctl.train.timer import untimed

if TYPE_CHECKING:
    from codecctl.train.state import TrainState
    from codecctl.train.step import StepPlan, StepResult

Update = Callable[["StepPlan", Sequence[Tensor]], "StepResult"]

N_PLAIN = 3  # steps of a new kind before it is recorded: kernels are chosen and compiled, optimisers make their moments
_N_AHEAD = 2  # steps that the host launches before the card has finished them


class StepGraphs:
    """The graphs of one training on one card. `warn` gets a message if steps cannot be recorded; they are launched
    kernel by kernel then. `record`: makes a `RecordedStep`."""

    def __init__(self, warn: Callable[[str], None], record: Callable[..., RecordedStep] | None = None) -> None:
        self._warn = warn
        self._record_step = record or RecordedStep
        self._works = True
        self.forget()

    def forget(self) -> None:
        """Record anew: the tensors of the training are others."""
        self._kinds: set[Any] = set()
        self._graphs: dict[Any, RecordedStep] = {}
        self._n_plain = 0  # steps to come before any is recorded

    def step(self, state: TrainState, plan: StepPlan, batches: Sequence[Tensor], update: Update) -> StepResult:
        """What `update(plan, batches)` does and returns, from a graph where there is one."""
        kind = _kind(plan)
        if kind not in self._kinds:
            if not self._n_plain:  # training is in another phase: free the memory of the one before
                self.forget()
            self._kinds.add(kind)
            self._n_plain = N_PLAIN
        if self._n_plain:
            self._n_plain -= 1
            return update(plan, batches)
        if self._works and kind not in self._graphs:
            self._record(kind, state, plan, batches, update)
        if kind not in self._graphs:
            return update(plan, batches)
        result = self._graphs[kind].replay(plan, batches)
        _count_changes(state)
        return result

    def _record(self, kind: Any, state: TrainState, plan: StepPlan, batches: Sequence[Tensor], update: Update) -> None:
        _count_changes(state)
        pool = next((graph.pool for graph in self._graphs.values()), None)
        try:
            self._graphs[kind] = self._record_step(state, plan, batches, update, pool)
        except RuntimeError as error:  # memory that does not suffice among them
            self._works = False
            self._graphs.clear()
            _count_changes(state)  # a table of codewords may have been made in the recording, and never computed
            reason = str(error).strip().splitlines()[0]
            self._warn(f"steps cannot be recorded as a CUDA graph, and are slower without one: {reason}")


class RecordedStep:
    """One graph, the tensors that it reads, and its result."""

    def __init__(self, state: TrainState, plan: StepPlan, batches: Sequence[Tensor], update: Update, pool: Any) -> None:
        """`pool`: the memory of another graph that this one may use too, or None."""
        self._inputs = Inputs(plan, batches)
        self._graph = torch.cuda.CUDAGraph()
        self._ends: deque[torch.cuda.Event] = deque()
        # Other threads may allocate pinned memory meanwhile: only what this one does is recorded.
        recording = torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local")
        same_stream = torch.cuda.stream(torch.cuda.current_stream())  # a recording that fails may not leave its own
        with same_stream, untimed(), recordable(state.optimizers), recording:
            self._result = update(self._inputs.plan, self._inputs.batches)
        self.pool = self._graph.pool()

    def replay(self, plan: StepPlan, batches: Sequence[Tensor]) -> StepResult:
        self._inputs.set(plan, batches)
        self._graph.replay()
        self._wait()
        return copied(self._result, plan)

    def _wait(self) -> None:
        """Until the card is `_N_AHEAD` steps behind: what a host has prepared takes memory."""
        end = torch.cuda.Event()  # type: ignore[no-untyped-call]
        end.record()
        self._ends.append(end)
        if len(self._ends) > _N_AHEAD:
            self._ends.popleft().synchronize()


class Inputs:
    """`plan` and `batches` of a step, with every value that differs from step to step in a tensor on the device."""

    def __init__(self, plan: StepPlan, batches: Sequence[Tensor]) -> None:
        assert isinstance(plan.stretch, slice)
        device = batches[0].device
        self.batches = [batch.clone() for batch in batches]
        self._numbers = torch.tensor(_numbers(plan), device=device)
        *weights, rate, discriminator_rate, decay = self._numbers.unbind()
        self._from_zero = torch.arange(plan.stretch.stop - plan.stretch.start, device=device)
        self._stretch = self._from_zero + plan.stretch.start
        self.plan = replace(
            plan,
            weights=dict(zip(plan.weights, weights, strict=True)),
            learning_rate=rate,
            discriminator_learning_rate=discriminator_rate,
            decay=decay,
            n_quantizers=plan.n_quantizers.clone(),
            stretch=self._stretch,
            orders=[order.clone() for order in plan.orders],
        )

    def set(self, plan: StepPlan, batches: Sequence[Tensor]) -> None:
        """The values of another step of the same kind. The host waits for nothing."""
        assert isinstance(plan.stretch, slice)
        device = self._numbers.device
        self._numbers.copy_(sent(pinned(torch.tensor(_numbers(plan)), device), device))
        torch.add(self._from_zero, plan.stretch.start, out=self._stretch)
        mine = [*self.batches, self.plan.n_quantizers, *self.plan.orders]
        for tensor, value in zip(mine, [*batches, plan.n_quantizers, *plan.orders], strict=True):
            tensor.copy_(value)


def _numbers(plan: StepPlan) -> list[float]:
    numbers = [*plan.weights.values(), plan.learning_rate, plan.discriminator_learning_rate, plan.decay]
    return [float(number) for number in numbers]


def copied(result: StepResult, plan: StepPlan) -> StepResult:
    """A result that the next replay does not change, with the numbers of `plan`."""
    norms = [norm for norm in (result.gradient_norm, result.discriminator_gradient_norm) if norm is not None]
    losses = len(result.losses)
    values = torch.stack([*result.losses.values(), *norms, result.skipped]).unbind()
    return replace(
        result,
        losses=dict(zip(result.losses, values[:losses], strict=True)),
        weights=cast(Mapping[str, float], plan.weights),
        gradient_norm=values[losses],
        discriminator_gradient_norm=values[losses + 1] if len(norms) > 1 else None,
        learning_rate=cast(float, plan.learning_rate),
        codes=result.codes.clone(),
        skipped=values[-1],
    )


@contextmanager
def recordable(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """Within: their steps may be recorded. Afterwards learning rates are numbers again, as checkpoints have them."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before: list[Mapping[str, Any]] = [{name: group[name] for name in ("lr", "capturable")} for group in groups]
    for group in groups:
        group["capturable"] = True
    try:
        yield
    finally:
        for group, values in zip(groups, before, strict=True):
            group.update(values)


def _kind(plan: StepPlan) -> Any:
    """Steps of one kind run the same kernels."""
    has_adversary = plan.adversary is not None
    return has_adversary, has_adversary and plan.updates_discriminators, tuple(plan.weights)


def _count_changes(state: TrainState) -> None:
    """A replay changes codewords without their version, by which tables of them are cached."""
    for codec in (state.codec, state.ema):
        torch.autograd.graph.increment_version([codebook.codewords for codebook in codec.quantizer.codebooks])
