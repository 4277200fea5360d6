"""Which utterances are trained on, and how often: `data.filter` and `data.mix`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from codecctl.config.schema import FilterConfig, MixConfig
from codecctl.data.shards import Index, Rows
from codecctl.errors import ConfigError


def chosen_rows(rows: Rows, index: Index, config: FilterConfig) -> NDArray[np.bool_]:
    """`[n_rows]`: whether an utterance passes the filter. Raises `ConfigError` for a name that matches nothing."""
    chosen = rows["bandwidth_hz"] >= config.min_bandwidth_hz
    for key, names, wanted in [
        ("languages", index.languages, config.languages),
        ("licences", index.licences, config.licences),
    ]:
        if wanted is not None:
            _check_names(f"data.filter.{key}", wanted, names)
            fits = [any(fnmatchcase(name or "unknown", pattern) for pattern in wanted) for name in names]
            chosen &= np.array(fits, bool)[rows[key.removesuffix("s")]]
    return chosen


def mix_factors(rows: Rows, index: Index, config: MixConfig) -> NDArray[np.float64]:
    """`[n_rows]`: how much more often an utterance is drawn than its length alone would have it.

    The hours h of a (dataset, language) count as h^(1/temperature). Raises `ConfigError` for a name that matches
    nothing.
    """
    by_dataset = _factors("datasets", index.datasets, config.datasets)[rows["dataset"]]
    by_language = _factors("languages", index.languages, config.languages)[rows["language"]]
    group = rows["dataset"].astype(np.int64) * len(index.languages) + rows["language"]
    hours = np.bincount(group, rows["n_samples"])[group]
    factors: NDArray[np.float64] = by_dataset * by_language * hours ** (1 / config.temperature - 1)
    return factors


def _factors(key: str, names: Sequence[str | None], wanted: Mapping[str, float]) -> NDArray[np.float64]:
    _check_names(f"data.mix.{key}", wanted, names)
    return np.array([_factor(name or "unknown", wanted) for name in names])


def _factor(name: str, wanted: Mapping[str, float]) -> float:
    return next((factor for pattern, factor in wanted.items() if fnmatchcase(name, pattern)), 1.0)


def _check_names(key: str, wanted: Collection[str], names: Sequence[str | None]) -> None:
    there = sorted(name or "unknown" for name in names)
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in there):
            raise ConfigError(f"{key}: nothing prepared is '{pattern}'; there is {', '.join(there)}")
