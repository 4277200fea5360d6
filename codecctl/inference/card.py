"""The model card of an exported codec: what it is, what it was trained on and under which licences."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from codecctl.config.schema import Config
from codecctl.data.manifest import read_manifest
from codecctl.errors import UsageError
from codecctl.inference.checkpoint import Checkpoint

_OPENING = "A neural speech codec of codecctl:"
# What is known of the licences of speech models that are used as teachers; their own pages decide.
_TEACHER_TERMS = {
    "microsoft/wavlm": "the repository of WavLM carries MIT, but the card of its weights points to the licence of "
    "UniSpeech, CC BY-SA 3.0",
    "facebook/hubert": "Apache-2.0",
    "ai4bharat/indicwav2vec": "MIT",
}


def card_path(model_file: Path) -> Path:
    """Where the card of a model file is written. Raises `UsageError` if that is a file which is not a card of ours."""
    path = model_file.with_suffix(".md")
    if path.exists() and _OPENING not in path.read_text(encoding="utf-8", errors="replace"):
        raise UsageError(f"{path}: exists and is not a model card; move it, or give the model another name")
    return path


def write_card(exported: Checkpoint, source: Checkpoint) -> Path:
    """Write the card beside an exported codec, as Markdown; returns its path. Raises what `card_path` raises.

    The training comes from the config in `source`, the checkpoint that was exported, and from the manifest of its
    prepared data, where these exist.
    """
    path, model = card_path(exported.path), exported.model
    config = source.config() if source.run is not None else None
    sizes = ", ".join(map(str, model.quantizer.codebook_sizes))
    late = f", and {1000 * model.delay / model.sample_rate:g} ms of the decoder" if model.delay else ""
    lines = [
        f"# {path.stem}",
        "",
        f"{_OPENING} {model.sample_rate} Hz, {model.frame_rate:g} frames a second, "
        f"{model.n_codebooks} codebooks of {sizes} codewords, "
        f"{model.bitrate_kbps:g} kbps.",
        "",
        f"- fingerprint: `{exported.fingerprint}`",
        f"- trained for {exported.step} steps"
        + (f" of {config.train.n_crops * config.data.crop_seconds:g} s of speech" if config else ""),
        f"- algorithmic delay: {1000 / model.frame_rate:g} ms, one frame{late}; causal",
        "",
        "## Trained on",
        "",
        *_data(Path(config.data.path) if config else None),
        *(_teacher(config) if config else ()),
        "",
        "## Measure it",
        "",
        f"`codecctl validate {exported.path.name} --data FOLDER --report REPORT` measures it on your recordings.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _data(prepared: Path | None) -> list[str]:
    """A table of hours by language and licence."""
    manifest = prepared and prepared / "manifest.jsonl"
    if not manifest or not manifest.is_file():
        return ["The prepared data is not here: fill in the corpora, their hours and their licences."]
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for utterance in read_manifest(manifest):
        if utterance.split == "train":
            seconds[utterance.language or "unknown", utterance.licence or "unknown"] += utterance.seconds
    most = sorted(seconds.items(), key=lambda item: -item[1])
    rows = [f"| {language} | {licence} | {time / 3600:.2f} |" for (language, licence), time in most]
    return [
        "| language | licence | hours |",
        "|---|---|---|",
        *rows,
        "",
        f"{sum(seconds.values()) / 3600:.1f} hours in all.",
    ]


def _teacher(config: Config) -> list[str]:
    if not config.loss.semantic_weight:
        return []
    teacher = config.train.semantic.teacher
    known = [terms for name, terms in _TEACHER_TERMS.items() if teacher.startswith(name)]
    terms = known[0] if known else "see its own card"
    return ["", f"The first codebook was trained with the teacher `{teacher}`. Its licence: {terms}."]
