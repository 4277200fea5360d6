"""Scores of a codec: `run` does what `codecctl validate` does."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codecctl.evaluate.evaluation import Evaluation as Evaluation
    from codecctl.evaluate.evaluation import run as run

__all__ = ["Evaluation", "run"]


def __getattr__(name: str) -> Any:
    # Imported when asked for: workers set their thread limits before torch is loaded.
    if name in __all__:
        from codecctl.evaluate import evaluation

        return getattr(evaluation, name)
    raise AttributeError(f"module 'codecctl.evaluate' has no attribute '{name}'")
