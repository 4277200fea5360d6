"""The log of a run: one JSON line an event, and TensorBoard."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from codecctl.audio.spectrum import MelSpectrogram
from codecctl.errors import CodecctlError
from codecctl.evaluate.codebooks import CodebookStats, Counts
from codecctl.evaluate.utterances import ReferenceUtterance
from codecctl.files import to_json, write_lines
from codecctl.model.codec import Codec
from codecctl.parsing import parse_json

if TYPE_CHECKING:
    from codecctl.train.checkpoint import Run
    from codecctl.train.state import TrainState
    from codecctl.train.step import StepResult
    from codecctl.train.timer import Throughput

SCORE = "mel_distance"  # of a validation: `best.pt` has the lowest
_WINDOW, _N_MELS = 1024, 80  # of spectrograms
_RANGE_DB = 80  # below the loudest point of the original
_QUIET = 1e-2  # of a magnitude: softer utterances become dark, and silence black
_IMAGE_SECONDS = 5
_N_EXAMPLES = 3  # utterances
_N_GROUPS = 64  # bars of a histogram


class RunLog:
    """`metrics.jsonl` and `tb/` of a run. Opening it drops what a killed run wrote after `step`, that of `last.pt`, and
    adds the line of this checkpoint if the kill came before it was written.

    Raises `CodecctlError` if it cannot be opened, e.g. on a full disk.
    """

    def __init__(self, run: Run, step: int, sample_rate: int) -> None:
        _align(run, step)
        self._sample_rate = sample_rate
        # TensorBoard's thread prints a traceback for a full disk; the next call raises the same error here.
        self._hook, threading.excepthook = threading.excepthook, self._hide_full_disk
        try:
            self._tensorboard = SummaryWriter(str(run.tensorboard), purge_step=step + 1)
            self._file = run.metrics.open("a", encoding="utf-8")  # the last: where it is, the log is open
        except OSError as error:  # TensorBoard's do not name the file
            threading.excepthook = self._hook
            where, why = error.filename or run.tensorboard, error.strerror or error
            raise CodecctlError(f"{where}: {why}; a run needs its log") from None
        self._mel = MelSpectrogram(sample_rate, _WINDOW, _N_MELS)
        self._run = run

    def write(
        self,
        step: int,
        kind: str,
        values: Mapping[str, float],
        codebooks: Sequence[CodebookStats] = (),
        words: Mapping[str, str] = {},
    ) -> None:
        """Write one event: `kind` is train, validation or checkpoint; `words`: what it has in words, by name."""
        names = ("codebook_usage", "perplexity") if codebooks else ()
        per_codebook = {name: [getattr(stats, name) for stats in codebooks] for name in names}
        self._file.write(to_json({"step": step, "kind": kind, **values, **per_codebook, **words}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._tensorboard.add_scalar(f"{kind}/{name}", value, step)
        for name, of_each in per_codebook.items():
            for k, value in enumerate(of_each, start=1):
                self._tensorboard.add_scalar(f"{kind}_{name}/codebook_{k}", value, step)
        for name, text in words.items():
            self._tensorboard.add_text(f"{kind}/{name}", text, step)

    def earlier(self, step: int, validated_on: str) -> list[float]:
        """The mel distances of validations on the same recordings before `step`, in order; where a step was done
        twice, after a roll-back, the later one counts. Read from the file, so that a resumed run gets what an
        uninterrupted one gets."""
        events = [e for e in map(_event, _lines(self._run)) if e.get("validated_on") == validated_on]
        found = {e["step"]: e[SCORE] for e in events if e["step"] < step and SCORE in e}
        return [math.nan if value is None else value for _, value in sorted(found.items())]

    def examples(self, state: TrainState, utterances: Sequence[ReferenceUtterance], hits: Sequence[Counts]) -> None:
        """To TensorBoard: the first utterances through the average of the codec, and how often each codeword of each
        codebook [V] was chosen."""
        self.histograms(state.step, hits)
        is_first = not self.earlier(state.step, state.validated_on)
        for utterance in utterances[:_N_EXAMPLES]:
            original = next(utterance.chunks(self._sample_rate))
            decoded = _decoded(state.ema, original)
            self.audio(state.step, f"{utterance.id}/decoded", decoded)
            self.spectrograms(state.step, f"{utterance.id}/original_and_decoded", original, decoded)
            if is_first:
                self.audio(state.step, f"{utterance.id}/original", original)

    def audio(self, step: int, name: str, audio: Tensor) -> None:
        """[1, L]"""
        self._tensorboard.add_audio(_tag(name), audio.clamp(-1, 1), step, self._sample_rate)

    def spectrograms(self, step: int, name: str, original: Tensor, decoded: Tensor) -> None:
        """[1, L] twice -> one image of their beginnings: the original on the left, the decoded audio on the right."""
        n_samples = min(original.shape[-1], decoded.shape[-1], _IMAGE_SECONDS * self._sample_rate)
        shades = side_by_side(*self._mel(torch.cat([original[:, :n_samples], decoded[:, :n_samples]])).numpy())
        self._tensorboard.add_image(_tag(name), shades, step, dataformats="HW")

    def histograms(self, step: int, counts: Sequence[Counts]) -> None:
        """How often the codewords of each codebook [V] were chosen, the most frequent on the left."""
        for k, hits in enumerate(counts, start=1):
            falling = np.sort(hits)[::-1]
            groups = np.array_split(falling, min(_N_GROUPS, len(falling)))
            ranks = np.arange(len(falling)) + 0.5
            self._tensorboard.add_histogram_raw(
                f"codebook_hits/codebook_{k}",
                min=0.0,
                max=float(len(falling)),
                num=int(hits.sum()),
                sum=float(falling @ ranks),
                sum_squares=float(falling @ ranks**2),
                bucket_limits=np.cumsum([len(group) for group in groups]).tolist(),
                bucket_counts=[int(group.sum()) for group in groups],
                global_step=step,
            )

    def _hide_full_disk(self, failure: threading.ExceptHookArgs) -> None:
        if not isinstance(failure.exc_value, OSError):
            self._hook(failure)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # closing flushes, and a full disk has been reported already
            self._file.close()
        with contextlib.suppress(OSError):
            self._tensorboard.close()
        threading.excepthook = self._hook


def step_values(result: StepResult, throughput: Throughput) -> dict[str, float]:
    """A training step as a line of the log has it: each loss, its weight and its share of the total."""
    total = float(result.total)
    values = {"total_loss": total}
    for name, value in result.losses.items():
        values[f"{name}_loss"] = float(value)
        if name in result.weights:
            values[f"{name}_weight"] = result.weights[name]
            values[f"{name}_share"] = float(value) * result.weights[name] / total if total else math.nan
    values["gradient_norm"] = float(result.gradient_norm)
    if result.discriminator_gradient_norm is not None:
        values["discriminator_gradient_norm"] = float(result.discriminator_gradient_norm)
    speed = {name: value for name, value in asdict(throughput).items() if value is not None}
    return {**values, "learning_rate": result.learning_rate, **speed}


@torch.inference_mode()
def _decoded(codec: Codec, audio: Tensor) -> Tensor:
    """[1, L] -> [1, L] on the CPU, through the codec, clipped to full scale."""
    device = next(codec.parameters()).device
    decoded: Tensor = codec(audio.to(device)[None]).audio[0].cpu()
    return decoded.nan_to_num().clamp(-1, 1)  # a run that fails decodes to NaN, of which no image and no file is made


def _tag(name: str) -> str:
    """TensorBoard stores UTF-8, which names of files may not be."""
    return name.encode(errors="backslashreplace").decode()


def side_by_side(original: NDArray[np.float32], decoded: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Magnitudes [M, T] in mel bands twice -> shades [2 M, 2 T + gap], low bands at the bottom, 255 being the loudest
    point of the original in both."""
    loudest = max(float(original.max()), _QUIET)
    levels = [20 * np.log10(np.maximum(mel, 1e-6) / loudest) for mel in (original, decoded)]
    left, right = (np.clip((level / _RANGE_DB + 1) * 255, 0, 255).astype(np.uint8)[::-1] for level in levels)
    gap = np.full((len(left), 4), 255, np.uint8)
    return np.hstack([left, gap, right]).repeat(2, axis=0)


def _align(run: Run, step: int) -> None:
    """Make the lines those of a run that ended with the checkpoint of `step`; 0: there is none."""
    # A line that a kill cut short belongs to no step.
    kept = [line for line in _lines(run) if _event(line).get("step", math.inf) <= step]
    saved = [event["step"] for event in map(_event, kept) if event.get("kind") == "checkpoint"]
    if step and step not in saved:
        kept.append(to_json({"step": step, "kind": "checkpoint", "save_seconds": None}))
    if kept:
        write_lines(run.metrics, (f"{line}\n" for line in kept), durable=False)


def _lines(run: Run) -> list[str]:
    """A full disk or a power cut may leave bytes at the end that are no text."""
    try:
        return run.metrics.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []


def _event(line: str) -> dict[str, Any]:
    """Empty for a line that was cut short."""
    try:
        event = parse_json(line, "")
        return {**event, "step": int(event["step"])}
    except (CodecctlError, ValueError, KeyError, TypeError):
        return {}
