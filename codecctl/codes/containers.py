"""The containers for the codes of a corpus, by the names of `--format`."""

from __future__ import annotations

from codecctl.codes.container import ShardContainer
from codecctl.codes.parquet import PARQUET
from codecctl.codes.shards import SHARDS
from codecctl.codes.webdataset import WEBDATASET

CONTAINERS: dict[str, ShardContainer] = {"shards": SHARDS, "webdataset": WEBDATASET, "parquet": PARQUET}
