"""Which file a model's name means: a shipped model, a file, a run's folder, or a model on the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

import codecctl
from codecctl.errors import CodecctlError, UsageError

STARTER = "starter"
RUNS = "runs"  # the folder in which `codecctl train` makes runs: never an owner on the hub
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_HUB_FILES = ("codec.safetensors", "model.safetensors")  # of `export`, and of `export --to hf`


def find_checkpoint(name: str | Path | None) -> Path:
    """The model's file; None: the starter. What exists here comes first: a file, then a run's folder (its best.pt, else
    its last.pt) or one of `export --to hf`, then a shipped model. A name on the hub is only what cannot be a path here.

    Raises `UsageError` that lists what may be given, `CodecctlError` if a folder or the hub has no such model.
    """
    asked = STARTER if name is None else str(name)
    path = Path(asked)
    if name is not None and _is_here(path):
        return _in_run(path) if os.path.isdir(path) else path
    if is_shipped(asked):
        return _assets() / f"{asked}.safetensors"
    if path.suffix in (".pt", ".safetensors") or path.is_absolute():
        return path  # reading it raises the error
    if _HUB_ID.fullmatch(asked) and not asked.startswith((".", f"{RUNS}/")) and not path.parent.exists():
        return _from_hub(*asked.partition("@")[::2])
    names = ", ".join(sorted(file.stem for file in _assets().glob("*.safetensors"))) or "none"
    raise UsageError(
        f"{asked}: no such file or folder, and no shipped model ({names}); "
        "give a file such as runs/NAME/last.pt, or owner/name on the Hugging Face hub"
    )


def is_shipped(name: str) -> bool:
    """Whether a model of this name comes with the package."""
    return "/" not in name and (_assets() / f"{name}.safetensors").is_file()


def _assets() -> Path:
    return Path(codecctl.__file__).parent / "assets"


def _is_here(path: Path) -> bool:
    """Whether there is such a path; also where the system does not say: then reading it shows why."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        pass
    return True


def _in_run(folder: Path) -> Path:
    for name in ("best.pt", "last.pt", _HUB_FILES[1]):
        if _is_here(folder / name):
            return folder / name
    raise CodecctlError(
        f"{folder}: a folder with neither best.pt nor last.pt nor {_HUB_FILES[1]}; give a model's file or a run's "
        "folder"
    )


def _from_hub(repo: str, revision: str) -> Path:
    """The exported codec in a model repository; the hub's own cache keeps it."""
    import httpx2
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    where = f"{repo}{'@' + revision if revision else ''} on the Hugging Face hub"
    try:
        try:
            return Path(hf_hub_download(repo, _HUB_FILES[0], revision=revision or None))
        except EntryNotFoundError:
            return Path(hf_hub_download(repo, _HUB_FILES[1], revision=revision or None))
    except (HfHubHTTPError, HFValidationError) as error:
        status = f" ({error.response.status_code})" if isinstance(error, HfHubHTTPError) else ""
        raise CodecctlError(
            f"{where}: {' or '.join(_HUB_FILES)} was not found{status}; check the name, and `hf auth login` for a "
            "private model"
        ) from None
    except (LocalEntryNotFoundError, httpx2.HTTPError, OSError):
        raise CodecctlError(f"{where}: the hub cannot be reached, and the model is not in its cache here") from None
