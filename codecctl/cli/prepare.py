"""`codecctl prepare`: any audio -> checked 16 kHz training data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.bars import plain
from codecctl.cli.options import ConfigOption, SetOption, say

if TYPE_CHECKING:
    from codecctl.data.prepare import PrepareReport


_MOST_ROWS = 12  # of a kind; the rest is in report.json


def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", help="Folders of audio or Parquet, downloaded corpora, JSONL lists."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The prepared folder; new recordings are added.")] = Path(
        "data/prepared"
    ),
    config: ConfigOption = "production",
    overrides: SetOption = None,
    n_workers: Annotated[int, typer.Option("--workers", min=1, help="Processes here, or tasks at a time on Ray.")] = 1,
    executor: Annotated[str, typer.Option(metavar="processes|ray", help="Where to work.")] = "processes",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Do the I-th of N parts, for job arrays.")] = "1/1",
) -> None:
    """Check recordings and convert them to training data: 16 kHz mono shards, a manifest, a split by speaker.

    Run it again to add recordings, or to resume. OUT/rejected.jsonl lists rejected recordings and the reasons.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from codecctl.config import load_config
    from codecctl.data.prepare import prepare as prepare_sources
    from codecctl.workers import parse_shard

    data, part = load_config(config, overrides=overrides or ()).data, parse_shard(shard)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("recordings", total=None)

        def advance(n_done: int, n_recordings: int) -> None:
            bar.update(task, completed=n_done, total=n_recordings)

        try:
            report = prepare_sources(
                sources, out, data, n_workers=n_workers, executor=executor, shard=part, on_progress=advance
            )
        except OSError as error:  # one raised while a file is written lacks its name
            error.filename = error.filename or str(out)
            raise
    for note in report.notes:
        say(plain(note))
    if report.n_units_left:
        left = f"{report.n_units_left} are left to other jobs, the last of which writes the index"
        say(f"{report.n_units_done} units done, {left}")
        return
    _print_report(out, report)


def _print_report(out: Path, report: PrepareReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", "hours", title=f"{out}: {report.n_utterances} recordings, {report.seconds / 3600:.2f} h")
    for key, seconds_of in report.seconds_by.items():
        shown = list(seconds_of.items())
        if key not in ("bandwidth", "level"):  # those are histograms
            shown.sort(key=lambda item: -item[1])
        for name, seconds in shown[:_MOST_ROWS]:
            table.add_row(key, name, f"{seconds / 3600:.2f}")
        if rest := shown[_MOST_ROWS:]:
            table.add_row(key, f"{len(rest)} others", f"{sum(seconds for _, seconds in rest) / 3600:.2f}")
        table.add_section()
    for reason, count in report.rejected.most_common():
        table.add_row("rejected", reason, f"{count} files")
    Console(highlight=False).print(table)
    if report.n_rejected:
        were = "recording was" if report.n_rejected == 1 else "recordings were"
        say(f"{report.n_rejected} {were} rejected; see {out / 'rejected.jsonl'} for the reasons")
