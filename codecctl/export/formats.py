"""The formats of `codecctl export --to` that are folders. A new one is a file and a row here."""

from __future__ import annotations

from collections.abc import Callable

from codecctl.export.huggingface import write_huggingface
from codecctl.export.onnx import write_onnx
from codecctl.export.web import write_web

FORMATS: dict[str, Callable[..., dict[str, int]]] = {"hf": write_huggingface, "onnx": write_onnx, "web": write_web}
