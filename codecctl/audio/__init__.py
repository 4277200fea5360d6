"""Audio files, resampling and spectra."""

import numpy as np
from numpy.typing import NDArray

Audio = NDArray[np.float32]
"""Samples `[C, L]`, full scale at 1."""
