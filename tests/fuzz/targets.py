"""The table of fuzzed readers: one file a target, one row here."""

from __future__ import annotations

from tests.fuzz import archives, audio, config, corpora, http, models, npy, packed, prepared

TARGETS = {
    target.name: target
    for target in (
        archives.TARGET, audio.TARGET, config.CONFIG, config.SET, corpora.CORPUS, corpora.STREAM,
        http.TARGET, models.PT, models.SAFETENSORS,
        npy.TARGET, packed.TARGET,
        prepared.LOG, prepared.MANIFEST, prepared.PREPARED, prepared.ROWS,
    )
}  # fmt: skip
