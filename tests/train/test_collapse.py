"""New codebooks on real speech: after 200 steps of the smoke config none has collapsed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from codecctl.config.load import load_config
from codecctl.data.crops import Crops
from codecctl.evaluate.codebooks import CodebookCounter
from codecctl.inference.load import Codec
from codecctl.train.callbacks import TrainingCallbacks
from codecctl.train.loop import train


@pytest.mark.slow
def test_no_codebook_collapses(prepared: Path, tmp_path: Path) -> None:
    config = load_config("smoke", overrides=[f"data.path={prepared}", "validate.n_utterances=1"])
    run = train(config, tmp_path / "run", torch.device("cpu"), TrainingCallbacks(), stop_step=200)

    codec = Codec.load(run.last, "cpu")
    counter = CodebookCounter(codec.config.quantizer.codebook_sizes)
    crops = Crops(prepared, "train", 10 * 16000, seed=1)
    for step in range(30):
        counter.update(codec.encode(crops.batch(step, 1)))
    for number, stats in enumerate(counter.stats(), start=1):
        assert stats.n_codes == 15_000
        assert stats.perplexity > stats.codebook_size / 10, f"codebook {number}: perplexity {stats.perplexity:.0f}"
