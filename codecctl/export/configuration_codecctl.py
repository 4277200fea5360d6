"""The config of an exported codec, for `transformers`. `codecctl export --to hf` copies this file."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from transformers import PretrainedConfig


class CodecctlConfig(PretrainedConfig):
    """What `config.json` has: the codec's sections, and what other programs ask for, computed from them.

    `part`: `codec`, `encoder` or `decoder`, what `from_pretrained` loads; both of the last two have the codebooks.
    """

    model_type = "codecctl"

    def __init__(self, codec: dict[str, Any] | None = None, part: str = "codec", **facts: Any) -> None:
        if part not in ("codec", "encoder", "decoder"):
            raise ValueError(f"part is {part!r}: expected codec, encoder or decoder")
        self.codec, self.part = codec or {}, part
        super().__init__(**facts)

    @property
    def sections(self) -> Any:
        """The codec's sections as attributes."""
        return _as_attributes(self.codec)


def _as_attributes(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**{name: _as_attributes(part) for name, part in value.items()})
    return tuple(value) if isinstance(value, list) else value
