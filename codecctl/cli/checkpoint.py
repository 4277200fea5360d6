"""Which model a command uses: `--checkpoint`, or the starter that comes with the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from codecctl.errors import CodecctlError, UsageError

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
STARTER = "starter"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_FILE = "codec.safetensors"


def find_checkpoint(checkpoint: str | Path | None) -> Path:
    """The model's file. A file that is there wins over a name, and a path with a suffix is never looked for elsewhere.

    Raises `UsageError` that says what may be given, `CodecctlError` if the hub does not give it.
    """
    asked = str(checkpoint or STARTER)
    if checkpoint is not None and Path(asked).is_file():
        return Path(asked)
    if (shipped := _assets() / f"{asked}.safetensors").is_file() and "/" not in asked:
        return shipped
    if Path(asked).suffix in (".pt", ".safetensors") or Path(asked).is_absolute():
        return Path(asked)  # reading it says what is wrong
    if _HUB_ID.fullmatch(asked) and not asked.startswith("."):
        return _from_hub(*asked.partition("@")[::2])
    names = ", ".join(sorted(path.stem for path in _assets().glob("*.safetensors"))) or "none"
    raise UsageError(
        f"--checkpoint {asked}: no such file, and no shipped model ({names}); "
        "give a file such as runs/NAME/last.pt, or owner/name on the Hugging Face hub"
    )


def _assets() -> Path:
    import codecctl

    return Path(codecctl.__file__).parent / "assets"


def _from_hub(repo: str, revision: str) -> Path:
    """The exported codec in a model repository; kept by the hub's own cache."""
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    where = f"{repo}{'@' + revision if revision else ''} on the Hugging Face hub"
    try:
        return Path(hf_hub_download(repo, _HUB_FILE, revision=revision or None))
    except (HfHubHTTPError, HFValidationError) as error:
        status = f" ({error.response.status_code})" if isinstance(error, HfHubHTTPError) else ""
        raise CodecctlError(
            f"{where}: no {_HUB_FILE} to be had{status}; check the name, and `hf auth login` for a private model"
        ) from None
    except (LocalEntryNotFoundError, httpx2.HTTPError, OSError):
        raise CodecctlError(f"{where}: the hub cannot be reached, and the model is not in its cache here") from None
