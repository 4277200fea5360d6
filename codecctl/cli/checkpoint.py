"""Which model a command uses: `--checkpoint`, or the starter that comes with the package."""

from __future__ import annotations

from typing import Annotated

import typer

from codecctl.inference.find import find_checkpoint

__all__ = ["CheckpointOption", "find_checkpoint"]

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        "--checkpoint",
        metavar="NAME|PATH|HUB",
        help="A shipped model's name, a file such as runs/NAME/last.pt, or owner/name[@revision] on the Hugging Face "
        "hub. [default: starter]",
        show_default=False,
    ),
]
