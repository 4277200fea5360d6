"""Mutates valid inputs and reads them; what is neither a value nor a `CodecctlError` is a failure."""

from __future__ import annotations

import random
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from codecctl.errors import CodecctlError

MOST_SECONDS = 1.0  # of the processor: other processes may be at work
MOST_BYTES = 200 * 2**20  # of memory
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_HEAD_BYTES = 128  # half of the mutations fall here


@dataclass(frozen=True)
class Target:
    """A reader: `read(path)` must return a value that it has checked, or raise `CodecctlError`."""

    name: str
    make_inputs: Callable[[], Mapping[str, bytes]]  # file name -> valid content
    read: Callable[[Path], object]

    @cached_property
    def inputs(self) -> Mapping[str, bytes]:
        return self.make_inputs()

    def find_fault(self, name: str, data: bytes, folder: Path) -> str | None:
        """What is wrong with how this content of a file is taken, or None."""
        path = folder / name
        path.write_bytes(data)
        memory, started = _peak_bytes(), time.process_time()
        try:
            self.read(path)
        except CodecctlError as error:
            if "\n" in str(error):
                return f"a message of several lines: {error!r}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            seconds = time.process_time() - started
            path.unlink(missing_ok=True)
        if seconds > MOST_SECONDS:
            return f"took {seconds:.1f} s"
        if (n_bytes := _peak_bytes() - memory) > MOST_BYTES:
            return f"took {n_bytes / 2**20:.0f} MB"
        return None


@dataclass(frozen=True)
class Case:
    """One damaged input, the same for the same target, seed and number."""

    target: Target
    seed: int
    number: int

    def build(self) -> tuple[str, bytes]:
        """The name of the file and its content."""
        draw = random.Random(f"{self.target.name} {self.seed} {self.number}")
        inputs = self.target.inputs
        name = draw.choice(sorted(inputs))
        data = bytearray(inputs[name])
        for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
            draw.choice(_MUTATIONS)(data, draw, inputs[draw.choice(sorted(inputs))])
        return name, bytes(data)

    def run(self, folder: Path) -> str | None:
        """What is wrong with how the target took the input, or None."""
        return self.target.find_fault(*self.build(), folder)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _place(data: bytearray, draw: random.Random) -> int:
    return draw.randrange(max(1, min(len(data), _HEAD_BYTES) if draw.random() < 0.5 else len(data)))


def _flip_bit(data: bytearray, draw: random.Random, _: bytes) -> None:
    if data:
        data[_place(data, draw)] ^= 1 << draw.randrange(8)


def _set_byte(data: bytearray, draw: random.Random, _: bytes) -> None:
    if data:
        data[_place(data, draw)] = draw.randrange(256)


def _set_number(data: bytearray, draw: random.Random, _: bytes) -> None:
    width, place = draw.choice((1, 2, 4, 8)), _place(data, draw)
    number = draw.choice(_NUMBERS) % 256**width
    data[place : place + width] = number.to_bytes(width, draw.choice(("little", "big")))


def _truncate(data: bytearray, draw: random.Random, _: bytes) -> None:
    del data[_place(data, draw) :]


def _delete(data: bytearray, draw: random.Random, _: bytes) -> None:
    place = _place(data, draw)
    del data[place : place + draw.choice((1, 4, 64, 1000))]


def _insert(data: bytearray, draw: random.Random, _: bytes) -> None:
    place = _place(data, draw)
    data[place:place] = draw.randbytes(draw.choice((1, 4, 64, 1000)))


def _repeat(data: bytearray, draw: random.Random, _: bytes) -> None:
    place = _place(data, draw)
    data[place:place] = data[place : place + draw.choice((1, 4, 64, 1000))]


def _splice(data: bytearray, draw: random.Random, other: bytes) -> None:
    place = _place(data, draw)
    data[place:] = other[draw.randrange(max(1, len(other))) :]


def _append(data: bytearray, draw: random.Random, other: bytes) -> None:
    data += other[: draw.randrange(len(other) + 1)]


def _insert_text(data: bytearray, draw: random.Random, _: bytes) -> None:
    place = _place(data, draw)
    data[place : place + draw.choice((0, 0, 1, 8))] = draw.choice(_TEXTS) * draw.choice((1, 1, 1, 2, 40, 2000))


_TEXTS = (
    b"[", b"]", b"{", b"}", b'{"a":', b"9", b"0.1e", b"-", b"1e999", b"NaN", b"null", b"true", b'""', b"\xff",
    b"\\ud800", b"\n",
    b": ", b"- ", b"? [a, b] : c\n", b"? ", b"&a ", b"*a ", b"<<: *a\n", b"!!python/object:os.system ",
    b"../", b"\x1b[2J", "\u202e".encode(), b"%", b"'", b"|\n", b"# ", b",",
)  # fmt: skip
_MUTATIONS = (
    _flip_bit, _set_byte, _set_number, _set_number, _truncate, _delete, _insert, _insert_text, _repeat, _splice,
    _append,
)  # fmt: skip
