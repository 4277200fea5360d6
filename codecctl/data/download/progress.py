"""How a download reports its progress. The command line imports this at its start, and nothing else of a download."""

from __future__ import annotations


class Progress:
    """Callbacks of a download; the defaults do nothing. All but `say` are called from several threads."""

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None:
        """`name` starts, or starts again, at `done` of `total` bytes; `verb` is "fetch", "check" or "unpack"."""

    def advance(self, name: str, done: int) -> None:
        """`name` is at `done` bytes, which may be fewer than before."""

    def end(self, name: str) -> None:
        """`name` is complete, or given up."""

    def say(self, text: str) -> None:
        """A sentence for the user."""
