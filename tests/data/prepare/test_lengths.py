"""`prepare` keeps whole recordings in their whole length and rejects the others with both lengths."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from codecctl.config.load import load_config
from codecctl.data.crops import utterances
from codecctl.data.prepare import prepare

INPUTS = Path(__file__).parents[2] / "inputs"


def test_cut_off_files_are_rejected_and_joined_ones_kept_whole(tmp_path: Path, speech_files: list[Path]) -> None:
    raw = tmp_path / "raw"
    for speaker in "ab":
        (raw / speaker).mkdir(parents=True)
        shutil.copy(speech_files["ab".index(speaker)], raw / speaker)
    for name in ("joined.ogg", "cut_off.opus", "page.mp3"):
        shutil.copy(INPUTS / name, raw / "a")
    (raw / "b" / "half.flac").write_bytes(speech_files[0].read_bytes()[:50_000])
    prepare([raw], tmp_path / "out", load_config("smoke", overrides=["data.validation_share=0.5"]).data)
    lines = (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()
    reasons = {line["source"]: line["reason"] for line in map(json.loads, lines)}
    assert reasons.keys() == {"a/cut_off.opus", "a/page.mp3", "b/half.flac"}
    assert reasons["a/cut_off.opus"].startswith("cut off (it ends after 4.97")
    assert reasons["a/page.mp3"] == "not audio (an HTML page)"
    assert reasons["b/half.flac"].startswith("cut off (")
    kept = [u for split in ("train", "validation") for u in utterances(tmp_path / "out", split)]
    assert {u.n_samples for u in kept if u.id.endswith("joined")} == {64_000}
