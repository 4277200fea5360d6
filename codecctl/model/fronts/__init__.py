"""The fronts by the `kind` of their section of the config. A new one is a file, a row here and a section there."""

from codecctl.model.fronts import strided, transform, vocoder
from codecctl.model.fronts.front import Front

FRONTS: dict[str, Front] = {"strided": strided.FRONT, "transform": transform.FRONT, "vocoder": vocoder.FRONT}
