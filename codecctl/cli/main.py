"""The `codecctl` program: its commands, and the one place where errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys

import click
import typer

from codecctl.cli.options import say
from codecctl.errors import CodecctlError

app = typer.Typer(
    name="codecctl",
    help="Train, measure and deploy a neural speech codec.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run one command; exit 0 when done, 1 when it failed, 2 for wrong use, 130 when interrupted."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        code = app(arguments, prog_name="codecctl", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CodecctlError as error:
        say(f"[bold red]error:[/] {_plain(str(error))}")
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        return 130
    except BrokenPipeError:
        # The reader went away (`codecctl ... | head`): nothing is left to say, not even at the interpreter's exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        where = f"{error.filename}: " if error.filename else ""
        say(f"[bold red]error:[/] {_plain(where + str(error.strerror))}")
        return 1


def _plain(text: str) -> str:
    """Text that rich must print as it stands."""
    return " ".join(text.replace("[", r"\[").split("\n"))


if __name__ == "__main__":
    main()
