"""The `codecctl` program: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import functools
import gc
import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from codecctl import __version__
from codecctl.cli.bench import bench
from codecctl.cli.console import WarningLines, reason, say, say_error
from codecctl.cli.decode import decode
from codecctl.cli.download import download
from codecctl.cli.encode import encode
from codecctl.cli.export import export
from codecctl.cli.info import info
from codecctl.cli.pipes import naming_stdout
from codecctl.cli.prepare import prepare
from codecctl.cli.quickstart import quickstart
from codecctl.cli.resume import resume
from codecctl.cli.train import train
from codecctl.cli.validate import validate
from codecctl.errors import CodecctlError, Interrupted, ReportedElsewhere

if sys.platform != "win32":
    import resource  # here, since without memory nothing can be imported

_SIGNS = ("allocate memory", "bad_alloc", "failed to map segment", "out of memory", "start new thread")
_ASKED = re.compile(r"tried to allocate (\d+) bytes")
_LINE_BREAK = re.compile(r"(?<!\n)\n(?!\n)")  # within a paragraph, which the help would keep
_LIBRARIES_GB = 4  # of addresses, that PyTorch and its CUDA libraries take before the first tensor
_SPINS = "3000"
"""How often a thread of torch looks for the others before it sleeps. By default it looks for milliseconds: where other
programs take the cores, two threads then need several times as long as one."""

app = typer.Typer(
    name="codecctl",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def explain_memory(error: BaseException) -> str | None:
    """One whole line for stderr on an allocation that failed: what is allowed, what was asked for; else None."""
    if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
        return None
    asked = _ASKED.search(str(error))
    more = f"; {int(asked[1]) / 1e6:.0f} MB more were asked for" if asked else ""
    n_bytes = resource.getrlimit(resource.RLIMIT_AS)[0] if sys.platform != "win32" else -1
    if sys.platform == "win32" or n_bytes == resource.RLIM_INFINITY:
        return f"error: the memory of this machine is used up{more}; end other programs, or use smaller batches\n"
    limit = n_bytes / 1e9
    advice = f"PyTorch alone takes {_LIBRARIES_GB}; allow at least {max(2 * _LIBRARIES_GB, round(2 * limit))} GB"
    return f"error: memory is limited to {limit:.1f} GB (`ulimit -v`){more}; {advice}\n"


def main() -> None:
    """Run one command; exit 0 when done, 1 when it failed, 2 for wrong use, 130 or 143 when interrupted."""
    if sys.stdout is None:  # closed by `>&-`: open it for reading, so that writing fails and no file takes its number
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w", encoding="utf-8")  # noqa: SIM115
    logging.getLogger("codecctl").addHandler(WarningLines())
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    code = run(sys.argv[1:])
    gc.freeze()  # the interpreter would look for garbage among all objects of the libraries before it ends
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. typer reports wrong options."""
    code = 0
    try:
        try:
            app(arguments, prog_name="codecctl")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        _flush_stdout()  # help and version are printed outside of any command
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        if message := explain_memory(error):
            sys.stderr.write(message)
        elif isinstance(error, OSError):
            _say_refused(error)
        else:
            raise
        return 1
    return code


def _say_refused(error: OSError) -> None:
    """What the system refused. A reader that has ended (`codecctl ... | head`) gets no message."""
    try:
        _flush_stdout()
    except OSError as lost:
        error = error if error.filename else lost
    if error.errno != errno.EPIPE:
        say_error(reason(error))


def _show_version(asked: bool) -> None:
    if asked:
        print(f"codecctl {__version__}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train, measure and deploy a neural speech codec."""


def _flush_stdout() -> None:
    """Raises `OSError` that names stdout if it does not take what was printed; the rest of it is dropped then, since
    Python would try again, and complain, at exit."""
    with naming_stdout():
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise


@contextmanager
def _stoppable() -> Iterator[None]:
    """Within, SIGTERM does what Ctrl-C does, with its own exit code."""
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except (Interrupted, KeyboardInterrupt) as early:
        if not received:
            raise
        raise Interrupted(str(early) or "interrupted", received[0]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command; its errors become one line on stderr and an exit code."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            with _stoppable():
                command(*arguments, **options)
            _flush_stdout()
        except CodecctlError as error:
            if isinstance(error, Interrupted):
                say(str(error))
            elif not isinstance(error, ReportedElsewhere):
                say_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None

    return guarded


for command in (quickstart, download, prepare, train, resume, validate, encode, decode, info, export, bench):
    app.command(help=_LINE_BREAK.sub(" ", inspect.getdoc(command) or ""))(_guarded(command))

if __name__ == "__main__":
    main()
