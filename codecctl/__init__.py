"""A neural speech codec and its tools: prepare, train, validate, encode, decode.

The public interface is `__all__` and what the documents import from `codecctl.audio`, `codecctl.audio.files`,
`codecctl.bitstream`, `codecctl.codes`, `codecctl.errors`, `codecctl.export.onnx_codec` and
`codecctl.inference.precision`; everything else may change between versions.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from codecctl.errors import CodecctlError, UsageError

if TYPE_CHECKING:
    from codecctl.export.hub import Codec
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.files import decode_file, encode_file
    from codecctl.inference.stream import StreamDecoder, StreamEncoder

__version__ = "0.1.0"
__all__ = [
    "Checkpoint",
    "Codec",
    "CodecctlError",
    "StreamDecoder",
    "StreamEncoder",
    "UsageError",
    "__version__",
    "decode_file",
    "encode_file",
]

_PLACES = {  # imported when asked for: `import codecctl` does not import torch
    "Checkpoint": "codecctl.inference.checkpoint",
    "Codec": "codecctl.export.hub",
    "StreamDecoder": "codecctl.inference.stream",
    "StreamEncoder": "codecctl.inference.stream",
    "decode_file": "codecctl.inference.files",
    "encode_file": "codecctl.inference.files",
}


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'codecctl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
