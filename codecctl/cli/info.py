"""`codecctl info`: what a file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.console import show, show_facts
from codecctl.cli.corpus import holds_codes
from codecctl.cli.options import JsonOption
from codecctl.cli.pipes import as_file, check_inputs
from codecctl.errors import UsageError
from codecctl.files import to_json
from codecctl.inference.find import find_checkpoint, is_shipped


def info(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="A checkpoint or a shipped model's name, codes (.cctl, .npy) or audio; - is stdin."
        ),
    ] = "starter",
    as_json: JsonOption = False,
) -> None:
    """Describe a checkpoint, a file of codes or an audio file: rates, lengths, sizes, fingerprint.

    Example: codecctl info speech.cctl
    """
    path = Path(file)
    if holds_codes(path):
        raise UsageError(f"{path}: a corpus of codes; `codecctl validate {path}` reads and describes it")
    if path.is_dir() or (is_shipped(file) and not path.exists()):
        path = find_checkpoint(file)
    check_inputs([path])

    from codecctl.inference.describe import describe

    with as_file(path) as (content, name):
        facts = describe(content, name=name)
    if as_json:
        show(to_json(facts))
    else:
        show_facts({key: _text(value) for key, value in facts.items() if value is not None})


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
