"""The floors of the house: an import only goes down, and what a room never does it does not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import codecctl

PACKAGE = Path(codecctl.__file__).parent
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
FLOORS = [
    {"errors", "text"},
    {"parsing", "files"},
    {"audio", "config", "workers", "lock", "bitstream"},
    {"data", "model"},
    {"inference"},
    {"evaluate"},
    {"train", "codes", "export"},
    {"cli"},
    {"__main__"},
]
LONGEST_CHAIN = 9  # modules, each imported by the one before when it is loaded
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, also inside functions and for types alone."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def called(path: Path) -> set[str]:
    """Plain names of functions that a file calls."""
    calls = (node.func for node in ast.walk(tree(path)) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def test_every_file_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    here = room_of(path)
    for name in imported(path):
        package, _, rest = name.partition(".")
        there = rest.split(".")[0]
        if package != "codecctl" or there in ("", here, "__version__"):
            continue
        assert there in FLOOR_OF, f"{path}: imports {name}, which is no room"
        assert FLOOR_OF[there] < FLOOR_OF[here], f"{path}: {here} imports {name}, which is not below it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_a_room_never_does(path: Path) -> None:
    here = room_of(path)
    assert not packages(path) & {"pickle", "marshal", "shelve", "dill", "joblib"}, "a stranger's file runs no code here"
    if here != "cli":
        assert not packages(path) & {"typer", "rich", "click"}, "only the command line knows these"
        assert not called(path) & {"print", "input", "exit", "quit"}, "only the command line prints, asks, exits"
    if here == "bitstream":
        assert "torch" not in packages(path)
    if here in ("model", "config") and path.name != "load.py":
        assert "open" not in called(path)
        assert not packages(path) & {"pathlib", "os", "io", "soundfile", "yaml"}, "opens no file"


def imported_at_once(statements: list[ast.stmt]) -> Iterator[str]:
    """Dotted names that a module imports when it is loaded: not within functions, and not for types alone."""
    for node in statements:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            yield from imported_at_once([*node.body, *node.orelse])
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (name for alias in node.names for name in (str(node.module), f"{node.module}.{alias.name}"))


def test_chains_of_imports_are_short_and_have_an_end() -> None:
    names = (".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in FILES)
    modules = {name.removesuffix(".__init__"): path for name, path in zip(names, FILES, strict=True)}
    below = {name: modules.keys() & {*imported_at_once(tree(path).body)} - {name} for name, path in modules.items()}
    longest_of: dict[str, list[str]] = {}
    while len(longest_of) < len(modules):
        ready = [name for name in modules if name not in longest_of and below[name] <= longest_of.keys()]
        assert ready, f"a circle of imports among {', '.join(sorted(modules.keys() - longest_of.keys()))}"
        longest_of |= {name: [name, *max((longest_of[n] for n in below[name]), key=len, default=[])] for name in ready}
    chain = max(longest_of.values(), key=len)
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


def test_the_command_line_starts_without_torch() -> None:
    heavy = ["torch", "numpy", "transformers", "soundfile", "pydantic"]
    code = f"import sys, codecctl.cli.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout, done.stdout


def test_help_runs_without_torch() -> None:
    code = (
        "import sys; from codecctl.cli.main import run; c = run(['train', '--help']); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--config" in done.stdout
