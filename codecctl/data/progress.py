"""How a download tells how it goes, to whoever wants to show it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Who wants to know how it goes. All but `say` come from several threads."""

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None:
        """`name` starts, or starts again, at `done` of `total` bytes."""

    def advance(self, name: str, done: int) -> None:
        """`name` is at `done` bytes, which may be fewer than before."""

    def end(self, name: str) -> None:
        """`name` is complete, or given up."""

    def say(self, text: str) -> None:
        """A sentence for the user."""


class Silence:
    """A `Progress` that nobody watches."""

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None: ...
    def advance(self, name: str, done: int) -> None: ...
    def end(self, name: str) -> None: ...
    def say(self, text: str) -> None: ...
