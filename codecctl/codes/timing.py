"""Measures the speed of a corpus job."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import codecctl
from codecctl.codes.job import encode_corpus


def corpus_throughput(checkpoint: Path, device: str, n_copies: int) -> float:
    """Seconds of audio a second of a corpus job of one process on the bundled clips, `n_copies` of each: reading,
    encoding in batches and writing included, loading the model not."""
    clips = sorted((Path(codecctl.__file__).parent / "assets" / "clips").rglob("*.flac"))
    with tempfile.TemporaryDirectory(prefix="codecctl-") as folder:
        few, many = Path(folder, "few"), Path(folder, "many")
        for place, n in ((few, 1), (many, n_copies)):
            for copy in range(n):
                (place / str(copy)).mkdir(parents=True)
                for clip in clips:
                    shutil.copy(clip, place / str(copy) / clip.name)
        # The first job loads the model and chooses kernels.
        encode_corpus([few], Path(folder, "first"), checkpoint, device=device)
        start = time.perf_counter()
        report = encode_corpus([many], Path(folder, "second"), checkpoint, device=device)
        return report.seconds / (time.perf_counter() - start)
