"""`codecctl quickstart`: the whole life of a codec in miniature, each step as the command that does it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from codecctl.cli.console import say
from codecctl.errors import UsageError


def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="A new folder for everything.")] = Path(
        "quickstart"
    ),
) -> None:
    """Use the shipped codec; then prepare, train, stop, resume, validate, encode, decode: about three CPU minutes.

    Example: codecctl quickstart --out /tmp/quickstart
    """
    import torch

    import codecctl
    from codecctl.cli.main import run

    if out.exists():
        raise UsageError(f"{out}: exists; remove it, or name another folder with --out")
    clips = Path(codecctl.__file__).parent / "assets" / "clips"
    clip = clips / "en-allison" / "vm-forward.flac"
    out.mkdir(parents=True)
    torch.set_num_threads(1)  # tensors this small gain nothing from more, and threads that wait burn a busy machine
    for step in (
        f"encode {shlex.quote(str(clip))} -o {out}/starter.cctl",
        f"decode {out}/starter.cctl -o {out}/starter.wav",
        f"prepare {shlex.quote(str(clips))} --out {out}/prepared --config smoke",
        f"train --config smoke --data {out}/prepared --run {out}/run --steps 200 --device cpu",
        f"resume {out}/run --steps 400 --device cpu",
        f"validate {out}/run/last.pt --device cpu",
        f"encode {shlex.quote(str(clip))} --checkpoint {out}/run/last.pt -o {out}/speech.cctl",
        f"info {out}/speech.cctl",
        f"decode {out}/speech.cctl --checkpoint {out}/run/last.pt -o {out}/speech.wav",
    ):
        say()
        say(label=f"$ codecctl {step}")
        code = run(shlex.split(step))
        if code:
            raise typer.Exit(code)
    say()
    say(
        f"Listen: {out}/starter.wav comes from the codec that ships with the package. {out}/speech.wav comes from "
        "the one just trained; after 400 steps it is hardly a voice yet. The README shows the next steps."
    )
