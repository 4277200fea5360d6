"""One evaluation of a checkpoint: what `codecctl validate` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import codecctl
from codecctl.config import Config, override_config
from codecctl.errors import UsageError
from codecctl.evaluate.report import ModelCard, write_report
from codecctl.evaluate.result import Validation
from codecctl.evaluate.session import Session
from codecctl.evaluate.utterances import choose, find_utterances
from codecctl.evaluate.verdict import Requirement, compare_requirements, verdict_of
from codecctl.files import to_json
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.load import Codec, find_device

CLIPS = Path(codecctl.__file__).parent / "assets" / "clips"
"""The bundled recordings, a minute of three voices."""


@dataclass(frozen=True)
class Source:
    """The utterances of an evaluation."""

    path: Path
    missing: Path | None = None  # the prepared data that the checkpoint names and that are not there


@dataclass(frozen=True)
class Evaluation:
    """What `run` returns."""

    checkpoint: Path
    fingerprint: str
    result: Validation
    requirements: tuple[Requirement, ...]  # of `validate.require`
    verdict: tuple[str, ...]  # the result in sentences
    report: Path | None  # the page, if one was written

    def to_json(self) -> str:
        """One line for programs; undefined values are null."""
        return to_json(
            {
                "checkpoint": str(self.checkpoint),
                "fingerprint": self.fingerprint,
                "verdict": self.verdict,
                "required": [requirement.to_dict() for requirement in self.requirements],
                **self.result.to_dict(),
            }
        )


def run(
    checkpoint: str | Path,
    *,
    data: str | Path | None = None,
    limit: int | None = None,
    against: str | Path | None = None,
    report: str | Path | None = None,
    resume: bool = False,
    overrides: Sequence[str] = (),
    n_workers: int = 2,
    device: str = "auto",
    on_start: Callable[[Source], Any] | None = None,
    on_progress: Callable[[int, int], Any] | None = None,
) -> Evaluation:
    """Measure the codec of a checkpoint on recordings, beside Opus.

    Args:
        data: a prepared folder, a folder or a file of audio; None: the prepared data that the checkpoint names, else
            the bundled clips.
        limit: the number of recordings, the same ones every time; None: `validate.n_utterances`.
        against: another checkpoint, compared recording by recording.
        report: a folder; `index.html` is written there, and the codec is also measured with some of its codebooks.
        resume: continue an interrupted report.
        overrides: changes of the config, such as `validate.metrics=[pesq]`.
        n_workers: processes for perceptual metrics; 0: none but this one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        on_start: called with the source before anything is measured.
        on_progress: called with the numbers of recordings done and of all after each.

    Ctrl-C ends the work early: the result covers what is done, `result.n_missing` counts the rest. Recordings that
    cannot be read are in `result.failed`.

    Raises `UsageError` for arguments that do not fit, `CodecctlError` if nothing can be measured.
    """
    if resume and report is None:
        raise UsageError("only a report can be continued; name its folder, --report DIR on the command line")
    path, other_path = Path(checkpoint), Path(against) if against else None
    model = Checkpoint.read(path)
    config = override_config(model.config(), overrides, source=str(path))
    codec = Codec.of(model, find_device(device))
    source = Source(Path(data)) if data else _default_source(config)
    utterances = choose(find_utterances(source.path), limit or config.validation.n_utterances)
    if on_start:
        on_start(source)
    folder = Path(report) if report else None
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    session = Session(
        codec,
        utterances,
        config.validation,
        against=Codec.load(other_path, device) if other_path else None,
        parts=folder is not None,
        folder=folder,
        identity={"codec": _identity(path), "against": _identity(other_path) if other_path else None},
        n_workers=n_workers,
    )
    result = session.measure(source=str(source.path), resume=resume, on_progress=on_progress)
    requirements, verdict = compare_requirements(result, config.validation.require), verdict_of(result)
    page = None
    if folder:
        card = ModelCard(path.name, codec.fingerprint or "", model.step)
        page = write_report(folder, result, requirements, verdict, card, session.renderer, utterances)
    return Evaluation(path, codec.fingerprint or "", result, requirements, verdict, page)


def _default_source(config: Config) -> Source:
    prepared = Path(config.data.path)
    return Source(prepared) if (prepared / "prepared.json").is_file() else Source(CLIPS, missing=prepared)


def _identity(path: Path) -> list[int]:
    """Differs between checkpoints of one run, without reading them."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
