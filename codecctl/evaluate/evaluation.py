"""One evaluation of a checkpoint: what `codecctl validate` does. An interrupt may end it, a later run continue it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import codecctl
from codecctl.audio import pyav
from codecctl.config.load import override_config
from codecctl.config.schema import ValidateConfig
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.evaluate.perceptual import unavailable
from codecctl.evaluate.rendering import N_KEPT, Plan, Renderer
from codecctl.evaluate.report.page import write_report
from codecctl.evaluate.report.templates import in_sentences
from codecctl.evaluate.result import Tally, Validation
from codecctl.evaluate.rows import RowFile
from codecctl.evaluate.scorer import Scorer
from codecctl.evaluate.systems import opus_name
from codecctl.evaluate.utterances import ReferenceUtterance, choose, find_utterances
from codecctl.evaluate.verdict import Requirement, Verdict, check_requirements, compare, verdict_of
from codecctl.files import to_json
from codecctl.inference import load
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.device import find_device
from codecctl.workers import hash_of

ROWS_NAME = "rows.jsonl"
CLIPS = Path(codecctl.__file__).parent / "assets" / "clips"
"""The bundled recordings, a minute of three voices."""


def measure(
    renderer: Renderer,
    utterances: Sequence[ReferenceUtterance],
    config: ValidateConfig,
    *,
    source: str = "",
    folder: Path | None = None,
    identity: Any = None,
    resume: bool = False,
    n_workers: int = 2,
    on_progress: Callable[[int, int], Any] | None = None,
) -> Validation:
    """Measure each utterance in all that `renderer` renders.

    `folder`: each utterance's scores are kept there as soon as they are known; `resume`: those that it holds are not
    measured anew. `identity` differs between models, so that scores of others are not continued.
    `on_progress(n_done, n_all)` is called after each utterance. Ctrl-C ends the work early: the result covers what is
    done, `n_missing` counts the rest. An utterance that cannot be read is named in `failed`.

    Raises `UsageError` for scores in `folder` that do not fit, `CodecctlError` if no utterance can be measured,
    `Interrupted` if none was done.
    """
    about = [astuple(renderer.plan), identity, [utterance.id for utterance in utterances]]
    settings = {"format": "codecctl.rows", "version": 3, "measured_with": hash_of(*about)}
    rows = RowFile(folder / ROWS_NAME) if folder else None
    tally, failed = Tally(renderer.codec), dict[str, str]()
    delays = _resume(rows, settings, tally) if rows and resume else None
    done = {row.id for row in tally.rows}
    left = [utterance for utterance in utterances if utterance.id not in done]
    kept = choose(utterances, N_KEPT)
    renderer.keep = {utterance.id for utterance in kept}
    interrupted = False
    try:
        with _threads_beside(n_workers if renderer.plan.metrics else 0):
            if delays is None:
                delays = renderer.find_delays(kept)
                if rows:
                    rows.start({**settings, "delays": delays})
            scorer = Scorer(renderer, delays, n_workers=n_workers)
            for row in scorer.rows(left, lambda utterance, error: failed.update({utterance.id: str(error)})):
                tally.add(row)
                if rows:  # after the tally: a row on the disk is always in the result, too
                    rows.append(row)
                if on_progress:
                    on_progress(len(tally.rows), len(utterances))
    except KeyboardInterrupt:
        interrupted = True
    if not tally.rows:
        if interrupted:
            raise Interrupted("interrupted before the first recording was done", signal.SIGINT)
        if not failed:
            raise CodecctlError(f"{source}: no recordings")
        why = next(iter(failed.values()))
        raise CodecctlError(f"{source}: none of {len(failed)} recordings can be read: {why}")
    not_measured = unavailable(config.metrics, config.recogniser)
    if not pyav.is_installed():
        missing = "not installed (av is missing): pip install av"
        not_measured |= {opus_name(kbps): missing for kbps in config.opus_kbps}
    return tally.result(
        source=source,
        n_missing=len(utterances) - len(tally.rows) - len(failed) if interrupted else 0,
        delays=delays or {},
        not_measured=not_measured,
        failed=failed,
    )


def _resume(file: RowFile, settings: dict[str, Any], tally: Tally) -> dict[str, float] | None:
    """Add the rows of a file to the tally; returns their delays, or None if there is no file."""
    found = file.settings()
    if found is None:
        return None
    if {key: found.get(key) for key in settings} != settings:
        raise UsageError(
            f"{file.path}: was measured with another model, other recordings or settings; leave --continue out to "
            "measure anew"
        )
    for row in file.rows():
        tally.add(row)
    return dict(found["delays"])


@contextmanager
def _threads_beside(n_workers: int) -> Iterator[None]:
    """Leave the workers their cores: torch's threads wait for one another, so they are slow where cores are busy."""
    n_threads = torch.get_num_threads()
    if n_workers:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - n_workers))
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@dataclass(frozen=True)
class Evaluation:
    """What `run` returns."""

    checkpoint: Path
    fingerprint: str
    result: Validation
    requirements: tuple[Requirement, ...]  # of `validate.require`
    verdict: Verdict  # in sentences: `report.templates.in_sentences`
    report: Path | None  # the page, if one was written

    def to_json(self) -> str:
        """One line for programs; undefined values are null."""
        return to_json(
            {
                "checkpoint": str(self.checkpoint),
                "fingerprint": self.fingerprint,
                "verdict": in_sentences(self.result, self.verdict),
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
    on_start: Callable[[Path, Path], Any] | None = None,
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
        on_start: called before anything is measured, with the recordings and the prepared data that the checkpoint
            names.
        on_progress: called with the numbers of recordings done and of all after each.

    Ctrl-C ends the work early: the result covers what is done, `result.n_missing` counts the rest. Recordings that
    cannot be read are in `result.failed`.

    Raises `UsageError` for arguments that do not fit, `CodecctlError` if nothing can be measured.
    """
    if resume and report is None:
        raise UsageError("only a report can be continued; name its folder, --report DIR on the command line")
    path, other_path = Path(checkpoint), Path(against) if against else None
    model = Checkpoint.read(path)
    config = override_config(model.config(), overrides)
    codec = load.Codec.of(model, find_device(device))
    prepared = Path(config.data.path)
    source = Path(data) if data else prepared if (prepared / "prepared.json").is_file() else CLIPS
    utterances = choose(find_utterances(source), limit or config.validation.n_utterances)
    if on_start:
        on_start(source, prepared)
    folder = Path(report) if report else None
    check_requirements(config.validation.require)
    plan = Plan.of(codec, config.validation, parts=folder is not None)
    other = load.Codec.load(other_path, device) if other_path else None
    renderer = Renderer(codec, plan, other)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    result = measure(
        renderer,
        utterances,
        config.validation,
        source=str(source),
        folder=folder,
        identity={"codec": _identity(path), "against": _identity(other_path) if other_path else None},
        resume=resume,
        n_workers=n_workers,
        on_progress=on_progress,
    )
    if result.comparison and other:
        named = replace(result.comparison, checkpoint=str(other_path), fingerprint=other.fingerprint)
        result = replace(result, comparison=named)
    requirements = tuple(compare(result, name, limit) for name, limit in config.validation.require.items())
    verdict = verdict_of(result)
    page = None
    if folder:
        page = write_report(
            folder,
            result,
            requirements,
            verdict,
            renderer,
            utterances,
            name=path.name,
            fingerprint=model.fingerprint,
            step=model.step,
        )
    return Evaluation(path, model.fingerprint, result, requirements, verdict, page)


def _identity(path: Path) -> list[int]:
    """Differs between checkpoints of one run, without reading them."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
