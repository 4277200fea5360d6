"""The formats of `codecctl export --to` that are folders. A new one is a file and a row here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from codecctl.export.huggingface import write_huggingface
from codecctl.export.onnx import write_onnx
from codecctl.inference.checkpoint import Checkpoint

FORMATS: dict[str, Callable[[Checkpoint, Path], dict[str, int]]] = {"hf": write_huggingface, "onnx": write_onnx}
