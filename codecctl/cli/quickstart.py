"""`codecctl quickstart`: the whole life of a codec in miniature, each step as the command that does it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.options import say
from codecctl.errors import UsageError


def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Where everything goes.")] = Path(
        "quickstart"
    ),
) -> None:
    """Prepare, train, stop, resume, validate, encode and decode on bundled speech: about three CPU minutes."""
    import torch

    import codecctl
    from codecctl.cli.main import run

    if out.exists():
        raise UsageError(f"{out}: is there already; remove it, or name another folder with --out")
    clips = Path(codecctl.__file__).parent / "assets" / "clips"
    clip = clips / "en-allison" / "vm-forward.flac"
    torch.set_num_threads(1)  # tensors this small gain nothing from more, and threads that wait burn a busy machine
    for step in (
        f"prepare {shlex.quote(str(clips))} --out {out}/prepared --config smoke",
        f"train --config smoke --data {out}/prepared --run {out}/run --steps 200 --device cpu",
        f"resume {out}/run --steps 400 --device cpu",
        f"validate {out}/run/last.pt --device cpu",
        f"encode {shlex.quote(str(clip))} --checkpoint {out}/run/last.pt -o {out}/speech.cctl",
        f"info {out}/speech.cctl",
        f"decode {out}/speech.cctl --checkpoint {out}/run/last.pt -o {out}/speech.wav",
    ):
        say(f"\n[bold]$ codecctl {step}[/]")
        code = run(shlex.split(step))
        if code:
            raise typer.Exit(code)
    say(f"\nAfter 400 steps a codec this small is hardly a voice yet: listen to {out}/speech.wav. The README goes on.")
