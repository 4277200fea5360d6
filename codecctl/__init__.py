"""A neural speech codec and the tools of its whole life: prepare, train, validate, encode, decode."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecctl.inference.load import Codec as Codec

__version__ = "0.1.0"
__all__ = ["Codec", "__version__"]


def __getattr__(name: str) -> Any:
    # `import codecctl` stays light: torch is loaded when the codec is asked for.
    if name == "Codec":
        from codecctl.inference.load import Codec

        return Codec
    raise AttributeError(f"module 'codecctl' has no attribute '{name}'")
