"""Lists in JSON may hold halves of characters, which UTF-8 does not have."""

from __future__ import annotations

import json
from pathlib import Path

from codecctl.config.load import load_config
from codecctl.data.manifest import read_manifest
from codecctl.data.prepare import prepare
from tests.conftest import CLIPS


def test_halves_of_characters_in_a_list_come_back(tmp_path: Path) -> None:
    clips = sorted((CLIPS / "en-allison").iterdir())[:2]
    lines = [json.dumps({"audio_filepath": str(c), "speaker": f"\ud801{c.stem}", "text": "a \ud800"}) for c in clips]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    prepare([tmp_path / "list.jsonl"], tmp_path / "prepared", load_config("smoke").data)
    found = {utterance.speaker for utterance in read_manifest(tmp_path / "prepared" / "manifest.jsonl")}
    assert found == {f"\ud801{clip.stem}" for clip in clips}
