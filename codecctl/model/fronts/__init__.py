"""The fronts by the `kind` of their section of the config. A new one is a file, a row here and a section there."""

from codecctl.model.fronts.front import Front
from codecctl.model.fronts.strided import FRONT as STRIDED
from codecctl.model.fronts.transform import FRONT as TRANSFORM
from codecctl.model.fronts.vocoder import FRONT as VOCODER

FRONTS: dict[str, Front] = {"strided": STRIDED, "transform": TRANSFORM, "vocoder": VOCODER}
