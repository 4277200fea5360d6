"""What to do when memory runs out."""

from __future__ import annotations

import re
import sys

if sys.platform != "win32":
    import resource  # here, since without memory nothing can be imported

_SIGNS = ("allocate memory", "bad_alloc", "failed to map segment", "out of memory", "start new thread")
_ASKED = re.compile(r"tried to allocate (\d+) bytes")
_LIBRARIES_GB = 4  # of addresses, that PyTorch and its CUDA libraries take before the first tensor


def explain_memory(error: BaseException) -> str | None:
    """One whole line for stderr on an allocation that failed: what is allowed, what was asked for; else None."""
    if not isinstance(error, MemoryError) and not any(sign in str(error).lower() for sign in _SIGNS):
        return None
    asked = _ASKED.search(str(error))
    more = f"; {int(asked[1]) / 1e6:.0f} MB more were asked for" if asked else ""
    limit = _limit_gb()
    if limit is None:
        return f"error: the memory of this machine is used up{more}; end other programs, or use smaller batches\n"
    advice = f"PyTorch alone takes {_LIBRARIES_GB}; allow at least {max(2 * _LIBRARIES_GB, round(2 * limit))} GB"
    return f"error: memory is limited to {limit:.1f} GB (`ulimit -v`){more}; {advice}\n"


def _limit_gb() -> float | None:
    """The limit of this process's addresses; None if there is none."""
    if sys.platform == "win32":
        return None
    n_bytes = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if n_bytes == resource.RLIM_INFINITY else n_bytes / 1e9
