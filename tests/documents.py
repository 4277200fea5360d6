"""The documents of the repository as blocks of commands and Python, and a player that runs them in this process."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from codecctl.cli.main import run
from codecctl.evaluate import scorer
from tests.bench import score_codecs

PROJECT = Path(__file__).resolve().parents[1]
NAMES = ("README.md", *(f"docs/{path.name}" for path in sorted((PROJECT / "docs").glob("*.md"))), "CONTRIBUTING.md")
TEXTS = {name: (PROJECT / name).read_text(encoding="utf-8") for name in NAMES}
RUNNABLE = ("bash", "console", "python")
VARY = "numbers vary"  # in a comment before a block: between machines, or because the tests run it in miniature

_BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FRAMES = re.compile(r"[─│┃━┏┓┗┛┡┩╇╈┳┻├┤┼]+")
_NUMBER = re.compile(r"\b[0-9a-f]{16}\b|[-+]?\d[\d.,]*(e[-+]?\d+)?|[±↑→↓]")  # fingerprints among them
_PROGRAMS: dict[str, Callable[[list[str]], int | None]] = {
    "codecctl ": run,
    "python -m tests.bench.score_codecs ": score_codecs.main,
    "python docs/examples/speech_lm.py ": lambda arguments: _example("speech_lm.py")(arguments),
}


def _example(name: str) -> Callable[[list[str]], int | None]:
    main: Callable[[list[str]], int | None] = runpy.run_path(str(PROJECT / "docs" / "examples" / name))["main"]
    return main


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    document: str
    note: str  # the comment before it
    language: str
    body: str

    @property
    def needs(self) -> str | None:
        """What the tests have not got: `card` or `network`."""
        return self.note.removeprefix("needs: ") if self.note.startswith("needs: ") else None

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that the document shows of its output."""
        steps: list[tuple[str, list[str]]] = []
        for line in self.body.splitlines():
            if self.language == "bash":
                steps.append((line, []))
            elif line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line)
        return steps


@dataclass(frozen=True)
class Finished:
    code: int
    output: str  # stderr, then stdout


def blocks(*languages: str) -> list[Block]:
    """All blocks of these languages, in order."""
    found = (Block(name, *match) for name in NAMES for match in _BLOCK.findall(TEXTS[name]))
    return [block for block in found if block.language in languages]


def commands() -> list[str]:
    """All `codecctl` lines, whether they can be run here or not."""
    lines = [line for block in blocks("bash", "console") for line, _ in block.steps]
    return [part for line in lines for part in line.split(" && ") if part.startswith("codecctl ")]


def can_run(line: str) -> bool:
    return line.startswith(tuple(_PROGRAMS))


def play(line: str) -> Finished:
    """Run a command line in this process; 75 steps of a training become one, and 10 s of a benchmark one; no processes
    measure the quality."""
    program = next(name for name in _PROGRAMS if line.startswith(name))
    line, _, target = line.removeprefix(program).partition(" > ")
    line = re.sub(r"(?<=--steps )\d+", lambda match: str(int(match[0]) // 75), line)
    line += {"validate": " --workers 0", "bench": " --seconds 1"}.get(line.split()[0], "")
    printed, errors = io.BytesIO(), io.BytesIO()
    with _redirected(printed, errors), pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "_MAX_WORKERS", 0)  # of a training
        try:
            code = _PROGRAMS[program](shlex.split(line)) or 0
        except SystemExit as stop:
            code = int(stop.code is not None)
    if target:
        Path(target).write_bytes(printed.getvalue())
        printed = io.BytesIO()
    return Finished(code, (errors.getvalue() + printed.getvalue()).decode())


@contextlib.contextmanager
def _redirected(stdout: io.BytesIO, stderr: io.BytesIO) -> Iterator[None]:
    texts = [io.TextIOWrapper(raw, encoding="utf-8", write_through=True) for raw in (stdout, stderr)]
    with contextlib.redirect_stdout(texts[0]), contextlib.redirect_stderr(texts[1]):
        yield
    for text in texts:
        text.detach()  # a wrapper that is collected would close the bytes


def is_printed(shown: str, output: str, *, exactly: bool) -> bool:
    """Whether a line of a document is one of the output's. `...` stands for a part of a line or for any lines.

    Frames of tables are not compared, and numbers only if `exactly`.
    """
    parts = [_plain(part, exactly) for part in shown.split("...")]
    if not any(parts):
        return True
    wanted = re.compile(".*".join(map(re.escape, parts)))
    return any(wanted.fullmatch(_plain(line, exactly)) for line in output.splitlines())


def _plain(line: str, exactly: bool) -> str:
    if not exactly:
        line = re.sub(r", [\d.]+ (s|min|h) left|; mel_distance .*", " ", line)  # the speed, and whether it got better
        line = re.sub(r"\b[kMG]B\b", "B", _NUMBER.sub(" ", line))
    return " ".join(_FRAMES.sub(" ", line).split())
