"""The `codecctl` program: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from codecctl import __version__
from codecctl.cli.bench import bench
from codecctl.cli.decode import decode
from codecctl.cli.download import download
from codecctl.cli.encode import encode
from codecctl.cli.export import export
from codecctl.cli.info import info
from codecctl.cli.memory import explain_memory
from codecctl.cli.options import say
from codecctl.cli.prepare import prepare
from codecctl.cli.quickstart import quickstart
from codecctl.cli.resume import resume
from codecctl.cli.train import train
from codecctl.cli.validate import validate
from codecctl.errors import CodecctlError, Interrupted, ReportedElsewhere

# A full disk, a folder that may not be written: the user can mend these; any other OSError is ours to mend.
_USERS_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EPIPE)

app = typer.Typer(
    name="codecctl",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run one command; exit 0 when done, 1 when it failed, 2 for wrong use, 130 or 143 when interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code. Wrong options are typer's to tell."""
    code = 0
    try:
        try:
            app(arguments, prog_name="codecctl")
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        sys.stdout.flush()  # what is asked of the program itself is printed outside of any command
    except OSError as error:
        if message := explain_memory(error):
            sys.stderr.write(message)
            return 1
        if error.errno not in _USERS_TROUBLE:
            raise
        where = error.filename or ("" if _output_is_taken() else "stdout")
        if error.errno != errno.EPIPE:  # the reader went away (`codecctl ... | head`): nothing is left to say
            _say_error((f"{where}: " if where else "") + str(error.strerror))
        return 1
    except (MemoryError, RuntimeError, ImportError) as error:
        if (message := explain_memory(error)) is None:
            raise
        sys.stderr.write(message)
        return 1
    return code


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


def _output_is_taken() -> bool:
    """Whether stdout takes what was printed. If not, it is not to be tried again, and complained of, at the end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with what goes wrong in it told in one line and turned into an exit code."""

    @functools.wraps(command)
    def guarded(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
            sys.stdout.flush()
        except ReportedElsewhere as end:
            raise typer.Exit(end.exit_code) from None
        except Interrupted as stop:
            say(_plain(str(stop)))
            raise typer.Exit(stop.exit_code) from None
        except CodecctlError as error:
            _say_error(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            say("interrupted")
            raise typer.Exit(130) from None

    return guarded


def _say_error(text: str) -> None:
    say(f"[bold red]error:[/] {_plain(text)}")


def _plain(text: str) -> str:
    """Text that rich must print as it stands, on one line."""
    return " ".join(text.replace("[", r"\[").split("\n"))


for command in (quickstart, download, prepare, train, resume, validate, encode, decode, info, export, bench):
    app.command()(_guarded(command))

if __name__ == "__main__":
    main()
