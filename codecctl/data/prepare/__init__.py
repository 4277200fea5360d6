"""Audio of any kind -> checked 16 kHz mono shards, one manifest, one index."""

from codecctl.data.prepare.merge import PrepareReport
from codecctl.data.prepare.run import prepare

__all__ = ["PrepareReport", "prepare"]
