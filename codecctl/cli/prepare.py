"""`codecctl prepare`: any audio -> checked 16 kHz training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.console import progress_bar, say, show, show_table, time_unit
from codecctl.cli.options import ConfigOption, SetOption
from codecctl.cli.pipes import naming
from codecctl.text import counted

if TYPE_CHECKING:
    from codecctl.data.prepare import PrepareReport

_MOST_ROWS = 12  # of a kind; the rest is in report.json


def prepare(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE", help="Folders of audio or Parquet, downloaded corpora, JSONL lists."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="The prepared folder; new recordings are added.")
    ] = Path("data/prepared"),
    config: ConfigOption = "production",
    overrides: SetOption = None,
    n_workers: Annotated[
        int, typer.Option("--workers", min=1, metavar="N", help="Processes here, or tasks at a time on Ray.")
    ] = 1,
    executor: Annotated[str, typer.Option(metavar="processes|ray", help="Where to work.")] = "processes",
    shard: Annotated[str, typer.Option(metavar="I/N", help="Do the I-th of N parts, for job arrays.")] = "1/1",
) -> None:
    """Check recordings and convert them to training data: 16 kHz mono shards, a manifest, a split by speaker.

    Run it again to add recordings, or to resume. DIR/rejected.jsonl lists rejected recordings and the reasons.

    Example: codecctl prepare data/raw my/recordings --out data/prepared --workers 8
    """
    from codecctl.config.load import load_config
    from codecctl.data.prepare import prepare as prepare_sources
    from codecctl.workers import parse_shard

    data, part = load_config(config, overrides=overrides or ()).data, parse_shard(shard)
    with naming(out), progress_bar("recordings") as advance:
        report = prepare_sources(
            sources, out, data, n_workers=n_workers, executor=executor, shard=part, on_progress=advance, on_wait=say
        )
    for note in report.notes:
        say(note)
    if report.n_units_left:
        left = f"{report.n_units_left} are left to other jobs, the last of which writes the index"
        say(f"{report.n_units_done} units done, {left}")
        return
    _print_report(out, report)


def _print_report(out: Path, report: PrepareReport) -> None:
    rows: list[Sequence[str]] = []
    heading, unit, scale = time_unit(report.seconds)
    for key, seconds_of in report.seconds_by.items():
        shown = list(seconds_of.items())
        if key not in ("bandwidth", "level"):  # those are histograms
            shown.sort(key=lambda item: -item[1])
        rows += [(key, name, f"{seconds / scale:.2f}") for name, seconds in shown[:_MOST_ROWS]]
        if rest := shown[_MOST_ROWS:]:
            rows.append((key, f"{len(rest)} others", f"{sum(seconds for _, seconds in rest) / scale:.2f}"))
        rows.append(())
    rows += [("rejected", reason, counted(count, "file")) for reason, count in report.rejected.most_common()]
    show(f"{out}: {counted(report.n_utterances, 'recording')}, {report.seconds / scale:.2f} {unit}")
    show_table(("", "", f">{heading}"), rows)
    if report.n_rejected:
        were = "recording was" if report.n_rejected == 1 else "recordings were"
        say(f"{report.n_rejected} {were} rejected; see {out / 'rejected.jsonl'} for the reasons")
