"""What a CUDA graph needs of a step: what changes is read from the device, and no value comes from the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from codecctl.config.load import load_config
from codecctl.config.schema import Config
from codecctl.train.device import make_fabric
from codecctl.train.graphs import Inputs, StepGraphs, copied, recordable
from codecctl.train.setup import make_teacher, start_state, wrap
from codecctl.train.state import TrainState, follow
from codecctl.train.step import (
    StepContext,
    StepPlan,
    StepResult,
    adversarial_losses,
    at_full_weight,
    codec_losses,
    plan_step,
    train_step,
    update,
)
from tests.train.tiny import ADVERSARIAL, tiny_config, tiny_context

CPU = torch.device("cpu")
HEARD = "train.adversarial.heard_seconds=0.1"


def training() -> tuple[TrainState, StepContext, Config]:
    config = tiny_config(Path("none"), *ADVERSARIAL, HEARD)
    state = start_state(config, CPU, steps_per_epoch=100)
    return state, tiny_context(state, config), config


def planned(state: TrainState, batches: list[Tensor], context: StepContext, config: Config) -> StepPlan:
    plan = plan_step(state, batches, context, config)
    n_vectors = sum(len(batch) * state.codec.n_frames(batch.shape[-1]) for batch in batches)
    random, device = torch.Generator().manual_seed(state.step), batches[0].device
    return replace(plan, orders=state.codec.quantizer.draw_orders(n_vectors, random, device))


def crops(step: int) -> list[Tensor]:
    return list(0.1 * torch.randn(2, 2, 1, 3200, generator=torch.Generator().manual_seed(step)))


class Repeated:
    """In place of a graph, where there is no card: computes the step anew from the tensors that a graph would read."""

    pool = None
    n_made = 0

    def __init__(
        self, state: TrainState, plan: StepPlan, batches: Sequence[Tensor], update: Callable[..., StepResult], pool: Any
    ) -> None:
        self.inputs, self.update, self.optimizers = Inputs(plan, batches), update, state.optimizers
        Repeated.n_made += 1

    def replay(self, plan: StepPlan, batches: Sequence[Tensor]) -> StepResult:
        self.inputs.set(plan, batches)
        with recordable(self.optimizers):
            return copied(self.update(self.inputs.plan, self.inputs.batches), plan)


def run_training(n_steps: int, graphs: StepGraphs | None, *changes: str) -> tuple[TrainState, list[StepResult]]:
    config = tiny_config(Path("none"), *ADVERSARIAL, HEARD, *changes)
    state = start_state(config, CPU, steps_per_epoch=8)
    context = replace(tiny_context(state, config), graphs=graphs)
    return state, [train_step(state, crops(step), context, config) for step in range(n_steps)]


@pytest.mark.slow
def test_each_kind_of_step_is_recorded_after_some_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Discriminators start at step 8 and are updated at every second step: three kinds."""
    monkeypatch.setattr(Repeated, "n_made", 0)
    late = ("train.adversarial.start_epoch=1", "train.adversarial.teach_every=2")
    state, results = run_training(20, None, *late)
    same, others = run_training(20, StepGraphs(pytest.fail, Repeated), *late)
    assert Repeated.n_made == 3
    assert [other.losses.keys() for other in others] == [result.losses.keys() for result in results]
    for result, other in zip(results, others, strict=True):
        torch.testing.assert_close(other.total, result.total, rtol=1e-3, atol=0)
    for name, weight in state.ema.state_dict().items():
        torch.testing.assert_close(same.ema.state_dict()[name], weight, rtol=1e-2, atol=1e-3)


def test_tables_of_codewords_follow_replayed_steps() -> None:
    """Without the count of changes, validation would search in old codebooks."""
    state, _ = run_training(6, StepGraphs(pytest.fail, Repeated))
    for codec in (state.codec, state.ema):
        for codebook in codec.quantizer.codebooks:
            assert torch.equal(codebook.table()[:-2], codebook.codewords.mT)


@pytest.mark.slow
def test_steps_that_cannot_be_recorded_are_launched_and_said_once() -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nand more lines")

    warnings: list[str] = []
    state, results = run_training(8, StepGraphs(warnings.append, fail))
    assert state.step == 8
    assert warnings == [
        "steps cannot be recorded as a CUDA graph, and are slower without one: CUDA error: operation not permitted "
        "when stream is capturing"
    ]
    assert [float(result.total) for result in results] == [float(r.total) for r in run_training(8, None)[1]]


def run(n_steps: int, *, from_inputs: bool) -> tuple[TrainState, list[StepResult], StepContext]:
    """Steps from the plan itself, or from the tensors that a graph would read, made at the first step."""
    state, context, config = training()
    inputs, results = None, []
    for step in range(n_steps):
        batches = crops(step)
        plan = planned(state, batches, context, config)
        if not from_inputs:
            results.append(update(state, plan, batches, context, config))
        else:
            inputs = inputs or Inputs(plan, batches)
            inputs.set(plan, batches)
            with recordable(state.optimizers):
                results.append(copied(update(state, inputs.plan, inputs.batches, context, config), plan))
        state.step += 1
    return state, results, context


@pytest.mark.slow
def test_steps_from_tensors_on_the_device_are_those_from_numbers() -> None:
    (state, results, _), (same, others, _) = run(5, from_inputs=False), run(5, from_inputs=True)
    for result, other in zip(results, others, strict=True):
        assert other.weights == result.weights
        assert other.learning_rate == result.learning_rate
        assert torch.equal(other.codes, result.codes)
        for name, value in result.losses.items():
            torch.testing.assert_close(other.losses[name], value)
        torch.testing.assert_close(other.gradient_norm, result.gradient_norm)
    for name, weight in state.ema.state_dict().items():
        torch.testing.assert_close(same.ema.state_dict()[name], weight)


def test_results_are_no_views_of_what_the_next_step_overwrites() -> None:
    state, context, config = training()
    result = update(state, planned(state, crops(0), context, config), crops(0), context, config)
    kept = copied(result, planned(state, crops(0), context, config))
    before = float(kept.losses["mel"]), kept.codes.clone()
    result.losses["mel"].fill_(7.0)
    result.codes.fill_(3)
    assert float(kept.losses["mel"]) == before[0]
    assert torch.equal(kept.codes, before[1])


def test_learning_rates_are_numbers_again_after_recording() -> None:
    state, _, context = run(2, from_inputs=True)
    for group in (group for optimizer in state.optimizers for group in optimizer.param_groups):
        assert isinstance(group["lr"], float)
        assert not group["capturable"]
    assert context.graphs is None  # on the CPU


class _FindTransfers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects what reads a value of the device on the host, or copies between the two."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        devices = {value.device for value in _flat([*args, result]) if isinstance(value, Tensor)}
        if function is torch.ops.aten._local_scalar_dense.default or ("copy" in str(function) and len(devices) > 1):
            self.found.append(str(function))
        return result


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        yield from _flat(value) if isinstance(value, (list, tuple)) else (value,)


@pytest.mark.slow
@pytest.mark.parametrize("config", ["production", "starter-adversarial"])
def test_a_step_moves_nothing_between_host_and_card(config: str) -> None:
    """On tensors without content. Without a card there is no backward pass of such tensors."""
    settings = load_config(config, overrides=["data.crop_seconds=1", "train.batch_size=2"])
    with torch.device("meta"):
        teacher = make_teacher(settings, load=False)
        state = start_state(settings, torch.device("meta"), teacher, steps_per_epoch=1.0)
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in (*state.modules, *([teacher.module] if teacher else [])):
            module.to_empty(device="cuda")
        context = wrap(state, None, settings, make_fabric(settings, CPU))
        context = replace(context, teacher=teacher, losses=context.losses.to_empty(device="cuda"))
        state = at_full_weight(state, settings)
        batches = [torch.zeros(2, 1, settings.crop_samples)]
        plan = planned(state, batches, context, settings)
        orders = [order.to("cuda") for order in plan.orders]
        plan = replace(plan, n_quantizers=plan.n_quantizers.to("cuda"), orders=orders)
        inputs = Inputs(plan, [batch.to("cuda") for batch in batches])
        with _FindTransfers() as transfers:
            output, semantics = context.generator(inputs.batches[0], inputs.plan.n_quantizers)
            losses = codec_losses(inputs.batches[0], output, semantics, context)
            if context.adversary is not None:
                judges = context.adversary.discriminators
                losses |= adversarial_losses(inputs.batches[0], output.audio, judges, context.fabric)
            latents = output.latents.detach()
            state.codec.quantizer.update(latents, output.codes, inputs.plan.n_quantizers, inputs.plan.orders)
            follow(state, inputs.plan.decay, torch.zeros((), device="cuda"))
    assert {loss.device.type for loss in losses.values()} == {"cuda"}
    assert transfers.found == []


@pytest.mark.parametrize("frozen", ["[encoder]", "[encoder,quantizer]"])
def test_a_recording_that_fails_leaves_no_table_of_codewords(frozen: str) -> None:
    """What is computed in a recording is computed when it is replayed: here it never is."""

    def record_then_fail(state: TrainState, *_: Any) -> Any:
        for codebook in state.codec.quantizer.codebooks:
            codebook.table().zero_()
        raise RuntimeError("out of memory")

    change = f"train.freeze={frozen}"
    _, results = run_training(6, StepGraphs(lambda _: None, record_then_fail), change)
    for result, other in zip(results, run_training(6, None, change)[1], strict=True):
        assert torch.equal(result.codes, other.codes)
