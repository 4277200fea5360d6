"""The licences that a user has agreed to, in `ROOT/licences.json`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codecctl.data.download.recipes import Licence
from codecctl.errors import CodecctlError
from codecctl.files import read_json, write_json


def read_agreed(root: Path) -> Mapping[str, Any]:
    """By name."""
    return read_json(root / "licences.json")


def agree(licence: Licence, root: Path, accepted: Collection[str], ask: Callable[[Licence], bool]) -> None:
    """Make sure that the user has consented: earlier, by `accepted`, or when asked. Raises `CodecctlError`."""
    agreed = read_agreed(root)
    if not licence.consent or licence.name in agreed:
        return
    if licence.name not in accepted and not ask(licence):
        raise CodecctlError(
            f"its licence needs your consent: read {licence.url} and add --accept-licence {licence.name}"
        )
    root.mkdir(parents=True, exist_ok=True)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(root / "licences.json", {**agreed, licence.name: {"url": licence.url, "agreed": now}})
