"""The model card of an exported codec: what it is, what it was trained on and under which licences."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from codecctl.config.model import ModelConfig
from codecctl.config.schema import Config
from codecctl.data.manifest import read_manifest
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import write_lines
from codecctl.inference.checkpoint import Checkpoint
from codecctl.parsing import parse_json

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


def write_card(exported: Checkpoint, source: Checkpoint, lines: list[str]) -> Path:
    """Write the card beside an exported codec, as Markdown: the `card_lines` of its `source`, with the fingerprint of
    the export. Returns its path. Raises what `card_path` raises."""
    path = card_path(exported.path)
    lines = [
        *(line.replace(source.fingerprint, exported.fingerprint) for line in lines),
        "## Measure it",
        "",
        f"`codecctl validate {exported.path.name} --data FOLDER --report REPORT` measures it on your recordings.",
        "",
    ]
    write_lines(path, ["\n".join(lines)])
    return path


def card_lines(name: str, source: Checkpoint) -> list[str]:
    """What the card says of the model itself, as lines of Markdown under the heading `name`.

    The training comes from the config in the checkpoint, the manifest of its prepared data and the log beside it, where
    these exist.
    """
    model = source.model
    config = source.config() if source.run is not None else None
    hours = _hours(Path(config.data.path) if config else None)
    return [
        f"# {name}",
        "",
        f"{_OPENING} {model.sample_rate} Hz, {model.frame_rate:g} frames a second, "
        f"{model.n_codebooks} codebooks of {', '.join(map(str, model.quantizer.codebook_sizes))} codewords, "
        f"{model.bitrate_kbps:g} kbps.",
        "",
        f"- fingerprint: `{source.fingerprint}`",
        f"- trained for {source.step} steps"
        + (f" of {config.train.n_crops * config.data.crop_seconds:g} s of speech" if config else ""),
        f"- algorithmic delay: {1000 / model.frame_rate:g} ms, one frame{_late(model)}; causal",
        "",
        "## Trained on",
        "",
        *_data(hours),
        *(_teacher(config) if config else ()),
        "",
        *_metrics(source),
        "## Limits",
        "",
        f"- {model.sample_rate} Hz, mono: what is above {model.sample_rate // 2} Hz is lost.",
        f"- Speech of {_languages(hours)}. Music, noise and other languages were not trained on.",
        "",
    ]


def _late(model: ModelConfig) -> str:
    return f", and {1000 * model.delay / model.sample_rate:g} ms of the decoder" if model.delay else ""


def _hours(prepared: Path | None) -> dict[tuple[str, str], float]:
    """Of the training, by language and licence, the most first; empty where the prepared data is not here, or its
    manifest is damaged: the weights do not depend on it."""
    manifest = prepared and prepared / "manifest.jsonl"
    hours: defaultdict[tuple[str, str], float] = defaultdict(float)
    try:
        for utterance in read_manifest(manifest) if manifest and manifest.is_file() else ():
            if utterance.split == "train":
                hours[utterance.language or "unknown", utterance.licence or "unknown"] += utterance.seconds / 3600
    except CodecctlError:
        return {}
    return dict(sorted(hours.items(), key=lambda item: -item[1]))


def _data(hours: dict[tuple[str, str], float]) -> list[str]:
    if not hours:
        return ["The prepared data cannot be read here: fill in the corpora, their hours and their licences."]
    rows = [f"| {language} | {licence} | {each:.2f} |" for (language, licence), each in hours.items()]
    return ["| language | licence | hours |", "|---|---|---|", *rows, "", f"{sum(hours.values()):.1f} hours in all."]


def _languages(hours: dict[tuple[str, str], float]) -> str:
    named = dict.fromkeys(language for language, _ in hours if language != "unknown")
    return f"these languages: {', '.join(named)}" if named else "unknown languages: fill them in"


def _metrics(source: Checkpoint) -> list[str]:
    """The scores of the run's last validation up to the checkpoint, from its log."""
    log = source.path.parent / "metrics.jsonl"
    if source.run is None or not log.is_file():
        return []
    scores = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(CodecctlError):  # a killed run may leave half a line
            event = parse_json(line, str(log))
            step = event.get("step")
            if event.get("kind") == "validation" and isinstance(step, int) and step <= source.step:
                scores.append(event)
    if not scores:
        return []
    rows = [f"| {name} | {value:.4g} |" for name, value in scores[-1].items() if isinstance(value, float)]
    head = f"The run's own validation at step {scores[-1]['step']}, on utterances held out of the training."
    return ["## Metrics", "", head, "", "| metric | mean |", "|---|---|", *rows, ""]


def _teacher(config: Config) -> list[str]:
    if not config.loss.semantic_weight:
        return []
    teacher = config.train.semantic.teacher
    known = [terms for name, terms in _TEACHER_TERMS.items() if teacher.startswith(name)]
    terms = known[0] if known else "see its own card"
    return ["", f"The first codebook was trained with the teacher `{teacher}`. Its licence: {terms}."]
