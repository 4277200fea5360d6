"""The help of every command: complete, with an example that can be typed, and completion for the shell."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import typer

from codecctl.cli.main import app
from tests.cli.conftest import Finished

Program = Callable[..., Finished]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def words(text: str) -> str:
    """Without frames and line breaks, which follow the terminal's width."""
    return " ".join(text.translate({ord(mark): " " for mark in "│╭╮╰╯─"}).split())


@pytest.fixture(params=["80", "120"])
def width(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", request.param)
    return str(request.param)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_with_its_text(codecctl: Program, width: str, name: str) -> None:
    shown = codecctl(name, "--help").stdout.decode()
    assert all(len(line) <= int(width) for line in shown.splitlines())
    for option in COMMANDS[name].params:
        for flag in option.opts if option.param_type_name == "option" else ():
            assert flag in shown
        assert all(word in words(shown) for word in (option.help or "").replace("\\[", "[").split()), option.name


@pytest.mark.parametrize("name", COMMANDS)
def test_a_paragraph_of_the_help_breaks_at_the_edge_only(codecctl: Program, width: str, name: str) -> None:
    lines = [line.strip() for line in codecctl(name, "--help").stdout.decode().partition("╭")[0].splitlines()]
    for line, after in pairwise(lines):
        assert not line or not after or len(line) + 1 + len(after.split()[0]) > int(width) - 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_in_the_help_can_be_typed(codecctl: Program, name: str) -> None:
    shown = words(codecctl(name, "--help").stdout.decode())
    (example,) = re.findall(rf"Example: codecctl {name} (.*?) (?:Arguments|Options)\b", shown)
    COMMANDS[name].make_context(name, shlex.split(example))  # raises for what it does not know


@pytest.mark.parametrize("name", ["encode", "decode", "validate", "bench", "info"])
def test_help_says_which_model_is_used(codecctl: Program, name: str) -> None:
    assert re.search(r"\[default: \(?starter\)?\]", words(codecctl(name, "--help").stdout.decode()))


def test_help_keeps_brackets(codecctl: Program) -> None:
    assert "owner/name[@REV]" in words(codecctl("encode", "--help").stdout.decode())


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "completed"), [("codecctl enc", "encode"), ("codecctl train --dry", "--dry-run")])
def test_the_shell_completes_commands_and_options(typed: str, completed: str) -> None:
    asked = {"_CODECCTL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "codecctl"], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, [completed])


def test_completion_can_be_installed(codecctl: Program) -> None:
    shown = codecctl("--help").stdout.decode()
    assert "--install-completion" in shown
    assert "--show-completion" in shown


@pytest.mark.slow
def test_the_package_is_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "codecctl", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"codecctl \d+\.\d+\.\d+\n", done.stdout)
