"""The table of fuzzed readers: one file a target, one row here."""

from __future__ import annotations

from tests.fuzz import audio, npy, packed

TARGETS = {module.TARGET.name: module.TARGET for module in (audio, npy, packed)}
