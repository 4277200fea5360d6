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
    out.mkdir(parents=True)
    place, sources, clip = (shlex.quote(str(path)) for path in (out, clips, clips / "en-allison" / "vm-forward.flac"))
    torch.set_num_threads(1)  # tensors this small gain nothing from more, and threads that wait burn a busy machine
    for step in (
        f"encode {clip} -o {place}/starter.cctl",
        f"decode {place}/starter.cctl -o {place}/starter.wav",
        f"prepare {sources} --out {place}/prepared --config smoke",
        f"train --config smoke --data {place}/prepared --run {place}/run --steps 200 --device cpu",
        f"resume {place}/run --steps 400 --device cpu",
        f"validate {place}/run/last.pt --device cpu",
        f"encode {clip} --checkpoint {place}/run/last.pt -o {place}/speech.cctl",
        f"info {place}/speech.cctl",
        f"decode {place}/speech.cctl --checkpoint {place}/run/last.pt -o {place}/speech.wav",
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
