"""Tensors that have a shape and a type but no content, and a count of what operations on them take."""

from __future__ import annotations

import math
import weakref
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_CPU, _META = torch.device("cpu"), torch.device("meta")
_ONLY_ALLOCATE = ("empty", "new_empty")
_ONLY_WRITE = ("zero", "ones", "full", "fill_", "rand", "arange", "new_", "scalar_tensor")


@dataclass(frozen=True, slots=True)
class Amount:
    """Of bytes or operations: a part that every batch takes, and a part for each of its crops."""

    fixed: int = 0
    per_crop: int = 0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.fixed + other.fixed, self.per_crop + other.per_crop)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.fixed - other.fixed, self.per_crop - other.per_crop)

    def of(self, n_crops: int) -> int:
        return self.fixed + n_crops * self.per_crop


class Shape(Tensor):
    """A tensor on the CPU, as torch sees it, that has no memory: `on_meta`, on the meta device, has its shape."""

    on_meta: Tensor

    @staticmethod
    def __new__(cls, on_meta: Tensor) -> Shape:
        shape: Shape = Tensor._make_wrapper_subclass(
            cls, on_meta.shape, on_meta.stride(), on_meta.storage_offset(), dtype=on_meta.dtype, device=_CPU
        )
        shape.on_meta = on_meta
        return shape

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function}: tensors without content can be used within their counter only")


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within: new tensors have no content, and what is alive, moved and multiplied is counted.

    Torch's `FakeTensorMode` also gives tensors without content, at several times the cost. Reading a value gives 0. An
    amount is one for each crop if it is a multiple of `n_crops`: a prime that divides no other size.
    """

    def __init__(self, n_crops: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._n_crops = n_crops
        self._sizes: dict[int, Amount] = {}  # of storages that are alive
        self._results: dict[Hashable, Any] = {}  # of functions of tensors of such shapes, see `_result`
        self.alive = Amount()
        self.start_again()

    def start_again(self) -> None:
        """Forget the past; what is alive stays so."""
        self.moved = self.operations = Amount()  # bytes read and written; floating-point operations
        self.n_launched = 0  # operators that launch a kernel
        self._peaks: dict[int, int] = defaultdict(int, {self.alive.per_crop: self.alive.fixed})

    @property
    def peaks(self) -> list[Amount]:
        """What was alive at moments, one of which has the most for whatever number of crops."""
        found: list[Amount] = []
        for per_crop, fixed in sorted(self._peaks.items(), reverse=True):
            if not found or fixed > found[-1].fixed:
                found.append(Amount(fixed, per_crop))
        return found

    def __torch_dispatch__(
        self, function: Any, types: Iterable[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.ops.aten._local_scalar_dense.default:
            return {torch.bool: bool, torch.int64: int}.get(args[0].dtype, float)(0)
        given: list[Tensor] = []
        inner_args, inner_kwargs = _mapped((args, kwargs), lambda tensor: _on_meta(tensor, given))
        shapes = {id(tensor.on_meta): tensor for tensor in given if isinstance(tensor, Shape)}
        made: list[Tensor] = []

        def wrapped(inner: Tensor) -> Tensor:
            if id(inner) in shapes:  # an operation in place
                return shapes[id(inner)]
            if self._see(inner.untyped_storage()):
                made.append(inner)
            return Shape(inner)

        result = _mapped(self._result(function, inner_args, inner_kwargs), wrapped)
        if torch.Tag.inplace_view in function.tags:  # torch has to know its new shape, too
            with torch._C._DisableTorchDispatch():
                function(*args, **kwargs)
        if self.alive.fixed > self._peaks[self.alive.per_crop]:
            self._peaks[self.alive.per_crop] = self.alive.fixed
        self._count(function, given, made, _written(function, args, kwargs))
        if count := flop_registry.get(function._overloadpacket):
            self.operations += self._amount(cast(Callable[..., int], count)(*args, **kwargs, out_val=result))
        return result

    def _result(self, function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """The function of tensors of the meta device. Most shapes come again and again: a result in memory of its own
        is copied from the first time."""
        if _takes(function, "device"):
            kwargs = {**kwargs, "device": _META}
        if _takes(function, "generator"):
            kwargs = {**kwargs, "generator": None}
        if function.is_view or function._schema.is_mutable:
            return function(*args, **kwargs)
        key = (function, _key(args), _key(kwargs))
        if key not in self._results:
            result = function(*args, **kwargs)
            stores: list[int] = []
            _mapped(result, lambda tensor: stores.append(tensor.untyped_storage()._cdata))
            if not stores or not self._sizes.keys().isdisjoint(stores):
                return result
            self._results[key] = result
        return _mapped(
            self._results[key],
            lambda like: torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=_META),
        )

    def _count(self, function: Any, given: list[Tensor], made: list[Tensor], written: list[Tensor]) -> None:
        name = function._opname
        if name.startswith(_ONLY_ALLOCATE) or not (made or written):
            return  # a view, or a question
        self.n_launched += 1
        if name.startswith(_ONLY_WRITE):
            given = []
        elif name == "copy_":
            given = given[1:]
        for tensor in (*given, *made, *written):
            # An expanded tensor has fewer elements in memory than it shows.
            sizes = [n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not n]
            self.moved += self._amount(math.prod(sizes) * tensor.itemsize)

    def _amount(self, n: int) -> Amount:
        each, rest = divmod(n, self._n_crops)
        return Amount(n, 0) if rest else Amount(0, each)

    def _see(self, storage: torch.UntypedStorage) -> bool:
        """Whether the storage is a new one."""
        if storage._cdata in self._sizes:
            return False
        self._sizes[storage._cdata] = size = self._amount(storage.nbytes())
        self.alive += size
        weakref.finalize(storage, self._lose, storage._cdata)
        return True

    def _lose(self, key: int) -> None:
        self.alive -= self._sizes.pop(key)


def _mapped(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """The same arguments or results with every tensor changed."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(item, change) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    return value


def _on_meta(tensor: Tensor, given: list[Tensor]) -> Tensor:
    given.append(tensor)
    return tensor.on_meta if isinstance(tensor, Shape) else tensor.to(_META)


def _key(value: Any) -> Hashable:
    """What the shape and type of a result follow from."""
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype)
    if isinstance(value, (list, tuple)):
        return tuple([_key(item) for item in value])
    if isinstance(value, dict):
        return tuple([(name, _key(item)) for name, item in value.items()])
    return (type(value), value)


@cache
def _takes(function: Any, name: str) -> bool:
    return any(argument.name == name for argument in function._schema.arguments)


def _written(function: Any, args: Any, kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that the function writes into."""
    found: list[Tensor] = []
    if function._schema.is_mutable:
        for i, argument in enumerate(function._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                _mapped(args[i] if i < len(args) else kwargs.get(argument.name), found.append)
    return found
