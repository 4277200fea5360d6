"""What to do when memory runs out."""

from __future__ import annotations

import re
import sys

_SIGNS = ("allocate memory", "bad_alloc", "failed to map segment", "out of memory", "start new thread")
_ASKED = re.compile(r"tried to allocate (\d+) bytes")
_LIBRARIES_GB = 4  # of addresses, that PyTorch and its CUDA libraries take before the first tensor


def explain_memory(error: BaseException) -> str | None:
    """One line on an error of an allocation: what is allowed, what was asked for; None for any other error."""
    if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
        return None
    asked = _ASKED.search(str(error))
    more = f"; {int(asked[1]) / 1e9:.1f} GB more were asked for" if asked else ""
    limit = _limit_gb()
    if limit is None:
        return f"the memory of this machine is used up{more}; end other programs, or use smaller batches"
    advice = f"allow at least {max(2 * _LIBRARIES_GB, round(2 * limit))} GB"
    return f"memory is limited to {limit:.1f} GB (`ulimit -v`), of which PyTorch takes {_LIBRARIES_GB}{more}; {advice}"


def _limit_gb() -> float | None:
    """The limit of this process's addresses; None if there is none."""
    if sys.platform == "win32":
        return None
    import resource

    n_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if n_bytes == resource.RLIM_INFINITY else n_bytes / 1e9
