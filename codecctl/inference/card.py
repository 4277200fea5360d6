"""The model card of an exported codec: what it is, what it was trained on and under which licences."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from codecctl.config import Config
from codecctl.data.manifest import read_manifest
from codecctl.inference.load import fingerprint, read_checkpoint, read_config

# What is known of the licences of speech models that are used as teachers; their own pages decide.
_TEACHER_TERMS = {
    "microsoft/wavlm": "the repository of WavLM carries MIT, but the card of its weights points to the licence of "
    "UniSpeech, CC BY-SA 3.0",
    "facebook/hubert": "Apache-2.0",
    "ai4bharat/indicwav2vec": "MIT",
}


def write_card(model: str | Path, prepared: str | Path) -> Path:
    """Write the card beside an exported codec, as Markdown; returns its path.

    What it was trained on is told from the `prepared` folder, if it is there. Raises `CodecctlError` if `model` is no
    checkpoint.
    """
    content = read_checkpoint(model)
    config = read_config(content, model)
    path = Path(model).with_suffix(".md")
    lines = [
        f"# {path.stem}",
        "",
        f"A neural speech codec of codecctl: {config.model.sample_rate} Hz, {config.model.frame_rate:g} frames a "
        f"second, {config.model.n_codebooks} books of {_sizes(config)} codewords, {config.model.bitrate_kbps:g} kbps.",
        "",
        f"- fingerprint: `{fingerprint(config.model, content['model'])}`",
        f"- trained for {content['step']} steps of {_step_seconds(config):g} s of speech",
        f"- algorithmic delay: {1000 / config.model.frame_rate:g} ms, one frame; causal",
        "",
        "## Trained on",
        "",
        *_data(Path(prepared)),
        *_teacher(config),
        "",
        "## Measure it",
        "",
        f"`codecctl validate {Path(model).name} --data FOLDER --report REPORT` measures it on your recordings.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _sizes(config: Config) -> str:
    return ", ".join(map(str, config.model.quantizer.codebook_sizes))


def _step_seconds(config: Config) -> float:
    return config.train.batch_size * config.train.accumulate * config.data.crop_seconds


def _data(prepared: Path) -> list[str]:
    """A table of hours by language and licence."""
    manifest = prepared / "manifest.jsonl"
    if not manifest.is_file():
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
    return ["", f"Book 1 was taught by `{teacher}`. Its licence: {terms}."]
