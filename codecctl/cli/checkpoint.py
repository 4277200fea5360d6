"""`--checkpoint`, for the commands that use a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from codecctl.errors import UsageError

CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", metavar="PATH", help="The model, e.g. runs/NAME/last.pt.")
]


def require_checkpoint(checkpoint: Path | None) -> Path:
    """The model to use. Raises `UsageError` that says how to get one."""
    if checkpoint is None:
        raise UsageError(
            "no model given: train one with `codecctl quickstart` or `codecctl train`, "
            "then pass --checkpoint runs/NAME/last.pt"
        )
    return checkpoint
