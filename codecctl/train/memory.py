"""What a step of training would take of a card, found without one: the step is run on tensors that have a shape and a
type but no content, and what would be alive, moved and multiplied is counted."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from codecctl.config.schema import Config
from codecctl.train.device import make_fabric
from codecctl.train.loop import crop_samples
from codecctl.train.state import TrainState, follow, make_optimizer, start_state
from codecctl.train.step import Machinery, assemble, fully_on, gradients
from codecctl.train.teacher import SemanticHead, Teacher

_CPU, _META = torch.device("cpu"), torch.device("meta")


@dataclass(frozen=True)
class Footprint:
    """A step of one card, in bytes; nothing of it was measured on one."""

    codec: int  # weights and codebooks
    average: int
    teacher: int  # with the projection of book 1
    discriminators: int
    gradients: int
    moments: int  # of the optimisers
    peak: int  # all that is alive at once, the parts above among it
    moved: int  # read and written by all operations of a step, each by itself
    operations: int  # floating-point ones of a step's convolutions and matrix products, backward included

    @property
    def lasting(self) -> int:
        """What stays from step to step."""
        return self.codec + self.average + self.teacher + self.discriminators + self.moments


def footprint(config: Config, *, adversarial: bool = True) -> Footprint:
    """The footprint of a step of `train.accumulate` batches of `train.batch_size`. `adversarial`: after the start of
    the discriminators, if the config has any.

    The tensors stand for ones on the CPU: their sizes and types are those of a card, but what a kernel takes for itself
    while it runs, such as a workspace of cuDNN, is in nobody's books.
    """
    config = config.model_copy(update={"train": config.train.model_copy(update={"compile": False})})
    with torch.device(_META):
        teacher = Teacher.without_weights(config.train.semantic) if config.loss.semantic_weight else None
        head = SemanticHead(config.model.latent_width, teacher.width) if teacher else None
        state = start_state(config, _META, head, steps_per_epoch=1)
    fabric = make_fabric(config, _CPU)
    count = _Count()
    with _no_content(), count:
        machine = _fill(state, config, fabric, teacher)
        parts = _parts(state, teacher)
        without_moments = count.alive
        _make_moments(state)
        moments = count.alive - without_moments
        state = fully_on(state, config) if adversarial else _before_adversaries(state, config)
        audio = torch.zeros(config.train.batch_size, 1, crop_samples(config))
        count.start_again()
        _step(state, [audio], machine, config)
    learning = [p for m in (state.generator, state.discriminators) if m is not None for p in m.parameters()]
    found = sum(p.nbytes for p in learning if p.requires_grad)
    several = config.train.accumulate  # they differ in what is there already: the gradients of the first
    return Footprint(
        **parts,
        gradients=found,
        moments=moments,
        peak=count.peak + (found if several > 1 else 0),
        moved=count.moved * several,
        operations=count.operations * several,
    )


def _step(state: TrainState, batches: list[Tensor], machine: Machinery, config: Config) -> None:
    """As `train_step`, without what depends on values and is small: the codebooks' update, when gradients alone are
    left of a step."""
    found = gradients(state, batches, machine, config)
    machine.optimizer.step()
    if machine.adversary is not None and found.discriminator_norm is not None:
        machine.adversary.optimizer.step()
    follow(state, config.train.ema_decay)


def _fill(state: TrainState, config: Config, fabric: Fabric, teacher: Teacher | None) -> Machinery:
    """Give the state of the meta device tensors that count, and the optimisers that a card has."""
    for module in (state.generator, state.ema, state.discriminators):
        if module is not None:
            module.to_empty(device=_CPU)
    if teacher is not None:
        teacher.module.to_empty(device=_CPU)
    settings = config.train
    state.optimizer = make_optimizer(state.generator, settings, settings.learning_rate)
    if state.discriminators is not None:
        rate = settings.adversarial.learning_rate
        state.discriminator_optimizer = make_optimizer(state.discriminators, settings, rate)
    return replace(assemble(state, config, fabric, None), teacher=teacher)


def _before_adversaries(state: TrainState, config: Config) -> TrainState:
    return replace(state, adversarial_step=state.step + config.train.adversarial.warmup_steps + 1)


def _parts(state: TrainState, teacher: Teacher | None) -> dict[str, int]:
    head = state.generator.semantic_head
    return {
        "codec": _bytes(state.codec),
        "average": _bytes(state.ema),
        "teacher": (_bytes(head) if head else 0) + (_bytes(teacher.module) if teacher else 0),
        "discriminators": _bytes(state.discriminators) if state.discriminators else 0,
    }


def _make_moments(state: TrainState) -> None:
    """As after a first step: AdamW makes its moments when it is asked for one."""
    for optimizer in (state.optimizer, state.discriminator_optimizer):
        if optimizer is not None:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


@contextmanager
def _no_content() -> Iterator[None]:
    """Within: tensors without content. What was made on the meta device may come along."""
    with warnings.catch_warnings(), FakeTensorMode(allow_non_fake_inputs=True):
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # which kernel a norm takes
        yield


class _Count(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, of the operations within, what is alive, moved and multiplied."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._sizes: dict[int, int] = {}
        self.alive = self.peak = self.moved = self.operations = 0

    def start_again(self) -> None:
        """Forget the past; what is alive stays so."""
        self.peak, self.moved, self.operations = self.alive, 0, 0

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        for tensor in made:
            self._see(tensor.untyped_storage())
        self.peak = max(self.peak, self.alive)
        if not function.is_view:
            given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            self.moved += sum(tensor.nbytes for tensor in (*given, *made))
            if count := flop_registry.get(function._overloadpacket):
                self.operations += cast(Callable[..., int], count)(*args, **kwargs, out_val=result)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self._sizes:
            self._sizes[storage._cdata] = storage.nbytes()
            self.alive += storage.nbytes()
            weakref.finalize(storage, self._lose, storage._cdata)

    def _lose(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)
