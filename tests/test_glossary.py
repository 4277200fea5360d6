"""The package, its configs and its documentation use the field's terms: each word here has a plainer one beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for pattern in ("README.md", "docs/*.md", "docs/examples/*.py", "configs/**/*.yaml", "codecctl/**/*.py")
    for path in ROOT.glob(pattern)
)
TERMS = {
    r"books?|n_books": "codebook",
    r"n_paths": "beam_width",
    r"mel_bins": "n_mels",
    r"segment_seconds": "crop_seconds",
    r"n_q": "n_quantizers",
    r"watcher": "callbacks",
    r"machinery": "context",
    r"pace": "throughput",
    r"patience": "retry policy",
    r"believes?|belief": "trusts, interval",
    r"hears?|heard|hearing": "takes; perceptual",
    r"tells|told": "returns, prints, shows",
    r"speaks?": "is, names",
    r"bears?": "has",
    r"gives? back": "returns",
    r"honest(ly)?": "exact",
    r"everybody|nobody|somebody": "each process, none, another",
}


@pytest.mark.parametrize("words", TERMS)
def test_words_have_plain_terms(words: str) -> None:
    pattern = re.compile(rf"\b({words})\b", re.IGNORECASE)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in FILES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert not found, f"say {TERMS[words]}:\n" + "\n".join(found)
