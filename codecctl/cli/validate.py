"""`codecctl validate`: the scores of a checkpoint."""

from __future__ import annotations

import math
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.console import progress_bar, say, show, show_table
from codecctl.cli.corpus import holds_codes, validate_corpus
from codecctl.cli.options import CheckpointOption, DeviceOption, JsonOption, SetOption
from codecctl.cli.pipes import naming
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.inference.find import find_checkpoint
from codecctl.text import counted, number

if TYPE_CHECKING:
    from codecctl.evaluate.codebooks import CodebookStats
    from codecctl.evaluate.evaluation import Evaluation
    from codecctl.evaluate.result import Comparison, Group, System

_HEADINGS = {"codec": "codec", "unquantized": "quantizer off", "lowpass_4khz": "below 4 kHz", "against": "the other"}
_OF_GROUPS = ("pesq_wb", "estoi", "snr_db", "si_sdr_db", "mel_distance")


def validate(
    checkpoint: Annotated[
        str | None,
        typer.Argument(metavar="CKPT", help="The model: as --checkpoint, which it stands for.", show_default="starter"),
    ] = None,
    checkpoint_option: CheckpointOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE",
            help="Recordings: audio, or a prepared folder.",
            show_default="the validation split that the model names, else the bundled clips",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most N recordings, the same ones every time.", show_default="all"),
    ] = None,
    overrides: SetOption = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="CKPT", help="Another model, compared recording by recording.", show_default="none"),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write DIR/index.html with players and charts; also measures with fewer codebooks."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--continue", help="With --report: continue an interrupted one.")] = False,
    n_workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes for PESQ and the like; 0: only this one.")
    ] = 2,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Measure a codec on recordings, beside Opus: quality metrics, and the use of its codebooks.

    Exit code 1 if a recording cannot be measured or a threshold of the config's validate.require is missed. A corpus
    of codes (a folder that encode wrote) in place of CKPT is read from end to end and checked instead.

    Example: codecctl validate runs/smoke/best.pt --data data/prepared --report report
    """
    if checkpoint is not None and checkpoint_option is not None:
        raise UsageError(f"two models given, {checkpoint} and --checkpoint {checkpoint_option}; give one")
    if checkpoint is not None and holds_codes(Path(checkpoint)):
        given = (data, limit, overrides, against, report, resume or None)
        if any(value is not None for value in given):
            raise UsageError(f"{checkpoint}: a corpus of codes is checked alone; only --json goes with it")
        return validate_corpus(Path(checkpoint), as_json)
    path, other = find_checkpoint(checkpoint or checkpoint_option), find_checkpoint(against) if against else None

    from codecctl import evaluate

    with progress_bar("validate") as progress, naming(report) if report else nullcontext():
        evaluation = evaluate.run(
            path,
            data=data,
            limit=limit,
            against=other,
            report=report,
            resume=resume,
            overrides=overrides or (),
            n_workers=n_workers,
            device=device,
            on_start=_say_source if data is None else None,
            on_progress=progress,
        )
    if evaluation.report:
        say(f"report: {evaluation.report}")
    if as_json:
        show(evaluation.to_json())
    else:
        _print_tables(evaluation)
    _check(evaluation)


def _say_source(source: Path, prepared: Path) -> None:
    if source == prepared:
        say(f"--data not given; using the validation split of {source}, which the checkpoint names")
    else:
        say(f"--data not given and {prepared} holds no prepared data; using the bundled clips")


def _check(evaluation: Evaluation) -> None:
    """Raises `Interrupted` for work left undone, `CodecctlError` for failed recordings and missed requirements."""
    result = evaluation.result
    for name, why in result.failed.items():
        say(f"not measured: {name}: {why}")
    n_planned = result.n_utterances + result.n_missing + len(result.failed)
    if result.n_missing:
        kept = "their scores are kept, and --continue goes on"
        way = kept if evaluation.report else "with --report DIR it can be continued"
        raise Interrupted(f"interrupted after {result.n_utterances} of {n_planned} recordings; {way}", signal.SIGINT)
    from codecctl.evaluate.report.templates import in_sentence

    problems = []
    if result.failed:
        problems.append(f"{len(result.failed)} of {n_planned} recordings could not be measured")
    missed = [in_sentence(requirement) for requirement in evaluation.requirements if not requirement.passed]
    if missed:
        problems.append(f"validate.require: {'; '.join(missed)}")
    if problems:
        raise CodecctlError("; ".join(problems))


def _print_tables(evaluation: Evaluation) -> None:
    from codecctl.evaluate.report.templates import in_sentences

    result = evaluation.result
    of = f"{result.n_utterances} of " if result.n_missing else ""
    recordings = of + counted(result.n_utterances + result.n_missing, "recording")
    measured = f"{recordings}, {result.seconds:.1f} s, of {result.source}"
    show(f"{evaluation.checkpoint} on {measured}:")
    for sentence in in_sentences(result, evaluation.verdict):
        show(f"- {sentence}")
    _print_systems(result.systems)
    if result.groups:
        _print_groups(result.groups)
    print_codebooks(result.codebooks)
    if result.comparison:
        _print_comparison(result.comparison)
    for reason in sorted(set(result.not_measured.values())):
        names = ", ".join(name for name, why in result.not_measured.items() if why == reason)
        show(f"not measured: {names}: {reason}")


def _print_systems(systems: Sequence[System]) -> None:
    """A row per metric, a column per system; the codec's means with half the width of their interval. The codec with
    some of its codebooks is shown by the report only."""
    from codecctl.evaluate.metrics.table import METRICS
    from codecctl.evaluate.systems import UNQUANTIZED, is_part

    shown = [system for system in systems if system.name == UNQUANTIZED or not is_part(system.name)]
    rows = [["true kbps", *("" if s.bitrate_kbps is None else f"{s.bitrate_kbps:.2f}" for s in shown)]]
    for name in dict.fromkeys(name for system in shown for name in system.metrics):
        metric = METRICS[name]
        cells = [number(s.metrics[name].mean, metric.digits) if name in s.metrics else "" for s in shown]
        if name in shown[0].metrics and not math.isnan(shown[0].metrics[name].low):
            half = (shown[0].metrics[name].high - shown[0].metrics[name].low) / 2
            cells[0] += f" ± {half:.{metric.digits}f}"
        rows.append([metric.label, *cells])
    show()
    show_table(("", *(">" + _HEADINGS.get(s.name, s.label.removesuffix(" kbps")) for s in shown)), rows)


def _print_groups(groups: Sequence[Group]) -> None:
    from codecctl.evaluate.metrics.table import METRICS

    metrics = {name: METRICS[name] for name in _OF_GROUPS if name in groups[0].metrics}
    rows = []
    for group in groups:
        values = (number(group.metrics[name].mean, metric.digits) for name, metric in metrics.items())
        rows.append([f"{group.kind} {group.name}", str(group.n_utterances), *values])
    show()
    show_table(("", ">recordings", *(f">{metric.label}" for metric in metrics.values())), rows)


def print_codebooks(codebooks: Sequence[CodebookStats]) -> None:
    """A row for each."""
    rows = []
    for n, stats in enumerate(codebooks, start=1):
        usage, perplexity = f"{stats.codebook_usage:.3f}", f"{stats.perplexity:.1f}"
        too_few = "" if n == 1 else "too few codes"
        shared = too_few if stats.mutual_information_bits is None else f"{stats.mutual_information_bits:.2f}"
        entropy = f"{stats.entropy_bits:.2f}"
        rows.append([str(n), str(stats.codebook_size), usage, perplexity, str(stats.dead_codewords), entropy, shared])
    names = ("size", "usage", "perplexity", "dead codewords", "entropy, bits", "shared, bits")
    show()
    show_table(("codebook", *(f">{name}" for name in names)), rows)


def _print_comparison(comparison: Comparison) -> None:
    from codecctl.evaluate.metrics.table import METRICS

    rows = [
        [METRICS[name].label, *(number(value, 3) for value in (each.mean, each.low, each.high))]
        for name, each in comparison.differences.items()
    ]
    show()
    show_table(("this minus the other", ">mean", ">95 % from", ">to"), rows)
    shares = comparison.equal_codes
    text = "the numbers of frames differ" if shares is None else "  ".join(f"{share:.1%}" for share in shares)
    show(f"equal codes, by codebook: {text}")
