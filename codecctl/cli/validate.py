"""`codecctl validate`: what a checkpoint is worth."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codecctl.cli.checkpoint import CheckpointOption, find_checkpoint
from codecctl.cli.options import DeviceOption, SetOption, say
from codecctl.errors import CodecctlError, Interrupted, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from codecctl.config.schema import Config
    from codecctl.evaluate.codebooks import BookStats
    from codecctl.evaluate.result import Group, System, Validation
    from codecctl.evaluate.verdict import Requirement

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
        typer.Option("--data", metavar="DIR|FILE", help="Audio; else the validation split that the model names."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, metavar="N", help="So many recordings, the same every time.")
    ] = None,
    overrides: SetOption = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="CKPT", help="Another model, compared recording by recording.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            "--report", metavar="DIR", help="Write DIR/index.html to read and to listen; adds the curve over books."
        ),
    ] = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="With --report: go on where an interrupted one stopped.")
    ] = False,
    n_workers: Annotated[
        int, typer.Option("--workers", min=0, metavar="N", help="Processes for PESQ and the like.")
    ] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Measure a codec on recordings, beside Opus: how it sounds in numbers, and how its codebooks are used.

    Exit code 1 if a threshold of the config's validate.require is missed.
    """
    if checkpoint is not None and checkpoint_option is not None:
        raise UsageError(f"two models given, {checkpoint} and --checkpoint {checkpoint_option}; give one")
    if go_on and report is None:
        raise UsageError("--continue goes on with a report; say which with --report DIR")
    path = find_checkpoint(checkpoint or checkpoint_option)

    from codecctl.config import override_config
    from codecctl.evaluate.recordings import choose, find_recordings
    from codecctl.evaluate.validate import Work
    from codecctl.evaluate.validate import validate as measure
    from codecctl.evaluate.verdict import judge, say_verdict
    from codecctl.inference.checkpoint import Checkpoint
    from codecctl.inference.load import Codec, find_device

    model = Checkpoint.read(path)
    config = override_config(model.config(), overrides or (), source=str(path))
    codec = Codec.of(model, find_device(device))
    other_path = find_checkpoint(against) if against else None
    other = Codec.load(other_path, device) if other_path else None
    source = data or _usual_source(config)
    recordings = choose(find_recordings(source), limit or config.validation.n_utterances)
    if report:
        report.mkdir(parents=True, exist_ok=True)
    identity = {"codec": _identity(path), "against": _identity(other_path) if other_path else None}
    work = Work(other, curve=report is not None, folder=report, go_on=go_on, n_workers=n_workers, identity=identity)
    with _progress_bar() as progress:
        result = measure(codec, recordings, source=str(source), config=config.validation, work=work, progress=progress)
    judged, verdict = judge(result, config.validation.require), say_verdict(result)
    if report:
        from codecctl.evaluate.report import ModelCard, write_report

        card = ModelCard(path.name, codec.fingerprint or "", model.step)
        page = write_report(
            report, result, judged, verdict, codec=codec, recordings=recordings, config=config.validation, card=card
        )
        say(f"report: {page}")
    if as_json:
        facts = {"checkpoint": str(path), "fingerprint": codec.fingerprint, "verdict": verdict}
        typer.echo(json.dumps({**facts, "required": [_to_dict(r) for r in judged], **result.to_dict()}))
    else:
        _print_tables(result, verdict, path)
    _end(result, judged, report)


def _end(result: Validation, judged: Sequence[Requirement], report: Path | None) -> None:
    """The exit code. Raises `Interrupted` for work left undone, `CodecctlError` for a threshold that is missed."""
    for name, why in result.failed.items():
        say(f"not measured: {name}: {why}".replace("[", r"\["))
    if result.n_missing:
        way = "--continue goes on" if report else "with --report DIR it can be continued"
        n_planned = result.n_utterances + result.n_missing + len(result.failed)
        raise Interrupted(f"interrupted after {result.n_utterances} of {n_planned} recordings; {way}", signal.SIGINT)
    missed = [requirement.line for requirement in judged if not requirement.passed]
    if missed:
        raise CodecctlError(f"validate.require: {'; '.join(missed)}")


def _usual_source(config: Config) -> Path:
    """The prepared data that the model was trained beside, else the bundled clips; says which."""
    prepared = Path(config.data.path)
    if (prepared / "prepared.json").is_file():
        say(f"no --data: the validation split of {prepared}, which the checkpoint names")
        return prepared
    import codecctl

    say(f"no --data, and no prepared data in {prepared}, which the checkpoint names: the bundled clips")
    return Path(codecctl.__file__).parent / "assets" / "clips"


def _identity(path: Path) -> list[Any]:
    """What tells one checkpoint from the next one of the same run, without reading it."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _to_dict(requirement: Requirement) -> dict[str, Any]:
    value = None if math.isnan(requirement.value) else requirement.value
    return {"name": requirement.name, "limit": requirement.limit, "value": value, "passed": requirement.passed}


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


def _print_tables(result: Validation, verdict: Sequence[str], path: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(highlight=False, markup=False, width=120)  # a file has room
    of = f" of {result.n_utterances + result.n_missing}" if result.n_missing else ""
    console.print(f"{path} on {result.n_utterances}{of} recordings, {result.seconds:.1f} s, of {result.source}:")
    for sentence in verdict:
        console.print(f"- {sentence}", soft_wrap=True)
    console.print(_systems_table(result.systems))
    if result.groups:
        console.print(_groups_table(result.groups))
    console.print(_books_table(result.books))
    _print_comparison(console, result)
    for reason in sorted(set(result.not_measured.values())):
        names = ", ".join(name for name, why in result.not_measured.items() if why == reason)
        console.print(f"not measured: {names}: {reason}", soft_wrap=True)


def _print_comparison(console: Console, result: Validation) -> None:
    from codecctl.evaluate.metrics import BOUNDS, METRICS

    if result.comparison is None:
        return
    table = _table("this less the other", "mean", "95 % from", "to")
    for name, mean in result.comparison.differences.items():
        if name not in BOUNDS:
            table.add_row(METRICS[name].label, *(_number(v, 3) for v in (mean.value, mean.low, mean.high)))
    console.print(table)
    shares = result.comparison.equal_codes
    told = "they do not count alike" if shares is None else "  ".join(f"{share:.1%}" for share in shares)
    console.print(f"equal codes, by book: {told}")


def _systems_table(systems: Sequence[System]) -> Table:
    """A row a metric, a column a system; half the width of its interval beside the codec's own means. The codec's parts
    are left to the report."""
    from codecctl.evaluate.metrics import METRICS

    shown = [system for system in systems if not system.name.startswith("books_")]
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
    from codecctl.evaluate.metrics import METRICS

    names = [name for name in _OF_GROUPS if name in groups[0].metrics]
    table = _table("", "recordings", *(METRICS[name].label for name in names))
    for group in groups:
        values = (_number(group.metrics[name].value, METRICS[name].digits) for name in names)
        table.add_row(f"{group.kind} {group.name}", str(group.n_utterances), *values)
    return table


def _books_table(books: Sequence[BookStats]) -> Table:
    table = _table("book", "size", "codebook_usage", "perplexity", "dead_codewords", "entropy, bits", "shared, bits")
    for number, book in enumerate(books, start=1):
        usage, perplexity = f"{book.codebook_usage:.3f}", f"{book.perplexity:.1f}"
        too_few = "" if number == 1 else "too few codes"
        shared = too_few if book.mutual_information_bits is None else f"{book.mutual_information_bits:.2f}"
        row = (str(book.codebook_size), usage, perplexity, str(book.dead_codewords), f"{book.entropy_bits:.2f}")
        table.add_row(str(number), *row, shared)
    return table


def _table(*headings: str) -> Table:
    """Lines under the headings alone; numbers stand right."""
    from rich import box
    from rich.table import Table

    table = Table(*headings, box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _number(value: float, digits: int) -> str:
    return "undefined" if math.isnan(value) else f"{value:z.{digits}f}"
