"""`codecctl validate`: the scores of a checkpoint."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.bars import plain
from codecctl.cli.checkpoint import CheckpointOption, find_checkpoint
from codecctl.cli.options import DeviceOption, SetOption, say
from codecctl.errors import CodecctlError, Interrupted, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from codecctl.evaluate.codebooks import CodebookStats
    from codecctl.evaluate.evaluation import Evaluation, Source
    from codecctl.evaluate.result import Group, System, Validation

_HEADINGS = {"codec": "codec", "unquantized": "quantizer off", "lowpass_4khz": "below 4 kHz", "against": "the other"}
_OF_GROUPS = ("pesq_wb", "estoi", "snr_db", "si_sdr_db", "mel_distance")


def validate(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="CKPT", help="The model, e.g. runs/NAME/last.pt; else --checkpoint.", show_default=False
        ),
    ] = None,
    checkpoint_option: CheckpointOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR|FILE",
            help="Recordings; else the validation data of the checkpoint or the bundled clips.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="At most N recordings, the same ones every time.")
    ] = None,
    overrides: SetOption = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="CKPT", help="Another model, compared recording by recording.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Write DIR/index.html to read and to listen; adds the curve over codebooks."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--continue", help="With --report: continue an interrupted one.")] = False,
    n_workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes for PESQ and the like.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="One line of JSON on stdout.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Measure a codec on recordings, beside Opus: how it sounds in numbers, and how its codebooks are used.

    Exit code 1 if a recording cannot be measured or a threshold of the config's validate.require is missed.
    """
    if checkpoint is not None and checkpoint_option is not None:
        raise UsageError(f"two models given, {checkpoint} and --checkpoint {checkpoint_option}; give one")
    path, other = find_checkpoint(checkpoint or checkpoint_option), find_checkpoint(against) if against else None

    from codecctl import evaluate

    with _progress_bar() as progress:
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
        say(f"report: {plain(str(evaluation.report))}")
    if as_json:
        typer.echo(evaluation.to_json())
    else:
        _print_tables(evaluation)
    _check(evaluation)


def _say_source(source: Source) -> None:
    if source.missing:
        say(plain(f"--data not given and {source.missing} holds no prepared data; using the bundled clips"))
    else:
        say(plain(f"--data not given; using the validation split of {source.path}, which the checkpoint names"))


def _check(evaluation: Evaluation) -> None:
    """Raises `Interrupted` for work left undone, `CodecctlError` for failed recordings and missed requirements."""
    result = evaluation.result
    for name, why in result.failed.items():
        say(plain(f"not measured: {name}: {why}"))
    n_planned = result.n_utterances + result.n_missing + len(result.failed)
    if result.n_missing:
        way = "--continue goes on" if evaluation.report else "with --report DIR it can be continued"
        raise Interrupted(f"interrupted after {result.n_utterances} of {n_planned} recordings; {way}", signal.SIGINT)
    problems = []
    if result.failed:
        problems.append(f"{len(result.failed)} of {n_planned} recordings could not be measured")
    missed = [requirement.line for requirement in evaluation.requirements if not requirement.passed]
    if missed:
        problems.append(f"validate.require: {'; '.join(missed)}")
    if problems:
        raise CodecctlError("; ".join(problems))


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("validate"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("validate", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_tables(evaluation: Evaluation) -> None:
    from rich.console import Console

    result = evaluation.result
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)  # a file has room
    of = f" of {result.n_utterances + result.n_missing}" if result.n_missing else ""
    measured = f"{result.n_utterances}{of} recordings, {result.seconds:.1f} s, of {result.source}"
    console.print(f"{evaluation.checkpoint} on {measured}:")
    for sentence in evaluation.verdict:
        console.print(f"- {sentence}", soft_wrap=True)
    console.print(_systems_table(result.systems))
    if result.groups:
        console.print(_groups_table(result.groups))
    console.print(_codebooks_table(result.codebooks))
    _print_comparison(console, result)
    for reason in sorted(set(result.not_measured.values())):
        names = ", ".join(name for name, why in result.not_measured.items() if why == reason)
        console.print(f"not measured: {names}: {reason}", soft_wrap=True)


def _print_comparison(console: Console, result: Validation) -> None:
    from codecctl.evaluate.metrics.table import METRICS

    if result.comparison is None:
        return
    table = _table("this minus the other", "mean", "95 % from", "to")
    for name, mean in result.comparison.differences.items():
        table.add_row(METRICS[name].label, *(_number(v, 3) for v in (mean.value, mean.low, mean.high)))
    console.print(table)
    shares = result.comparison.equal_codes
    text = "the numbers of frames differ" if shares is None else "  ".join(f"{share:.1%}" for share in shares)
    console.print(f"equal codes, by codebook: {text}")


def _systems_table(systems: Sequence[System]) -> Table:
    """A row per metric, a column per system; the codec's means with half the width of their interval. The codec with
    some of its codebooks is shown by the report only."""
    from codecctl.evaluate.baselines import UNQUANTIZED, is_part
    from codecctl.evaluate.metrics.table import METRICS

    shown = [system for system in systems if system.name == UNQUANTIZED or not is_part(system.name)]
    table = _table("", *(_HEADINGS.get(s.name, s.label.removesuffix(" kbps")) for s in shown))
    table.add_row("true kbps", *("" if s.bitrate_kbps is None else f"{s.bitrate_kbps:.2f}" for s in shown))
    for name in dict.fromkeys(name for system in shown for name in system.metrics):
        metric = METRICS[name]
        cells = [_number(s.metrics[name].value, metric.digits) if name in s.metrics else "" for s in shown]
        if name in shown[0].metrics and not math.isnan(shown[0].metrics[name].low):
            half = (shown[0].metrics[name].high - shown[0].metrics[name].low) / 2
            cells[0] += f" ± {half:.{metric.digits}f}"
        table.add_row(metric.label, *cells)
    return table


def _groups_table(groups: Sequence[Group]) -> Table:
    from codecctl.evaluate.metrics.table import METRICS

    names = [name for name in _OF_GROUPS if name in groups[0].metrics]
    table = _table("", "recordings", *(METRICS[name].label for name in names))
    for group in groups:
        values = (_number(group.metrics[name].value, METRICS[name].digits) for name in names)
        table.add_row(f"{group.kind} {group.name}", str(group.n_utterances), *values)
    return table


def _codebooks_table(codebooks: Sequence[CodebookStats]) -> Table:
    table = _table(
        "codebook", "size", "codebook_usage", "perplexity", "dead_codewords", "entropy, bits", "shared, bits"
    )
    for number, stats in enumerate(codebooks, start=1):
        usage, perplexity = f"{stats.codebook_usage:.3f}", f"{stats.perplexity:.1f}"
        too_few = "" if number == 1 else "too few codes"
        shared = too_few if stats.mutual_information_bits is None else f"{stats.mutual_information_bits:.2f}"
        row = (str(stats.codebook_size), usage, perplexity, str(stats.dead_codewords), f"{stats.entropy_bits:.2f}")
        table.add_row(str(number), *row, shared)
    return table


def _table(*headings: str) -> Table:
    """A line under the headings only; numbers are right-aligned."""
    from rich import box
    from rich.table import Table

    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _number(value: float, digits: int) -> str:
    return "undefined" if math.isnan(value) else f"{value:z.{digits}f}"
