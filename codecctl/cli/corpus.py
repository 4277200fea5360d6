"""What `encode`, `decode` and `validate` do with a corpus of codes, a folder."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.batch import check_out_dir
from codecctl.cli.console import duration, progress_bar, say, show, show_table, time_unit
from codecctl.cli.pipes import naming
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import to_json
from codecctl.inference.find import find_checkpoint
from codecctl.text import counted

if TYPE_CHECKING:
    from codecctl.codes.job import CorpusReport
    from codecctl.codes.reading import CorpusCheck

WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        metavar="N",
        help="Corpus: processes that read and encode, each on one core or on a card that it shares.",
        show_default="one a core, 4 a card",
    ),
]
CardsOption = Annotated[int, typer.Option("--devices", min=1, metavar="N", help="Corpus: cards to use.")]
ExecutorOption = Annotated[
    str, typer.Option("--executor", metavar="processes|ray", help="Corpus: where the workers run.")
]
ShardOption = Annotated[
    str, typer.Option("--shard", metavar="I/N", help="Corpus: do the I-th of N parts, for job arrays.")
]
CORPUS_FORMATS = ("shards", "webdataset", "parquet")
_WORKERS_A_CARD = 4
_MOST_ROWS = 12  # of a kind


def means_corpus(inputs: Sequence[Path]) -> bool:
    """Whether `encode` without a format writes one corpus instead of a file for each input."""
    from codecctl.codes.sources import names_corpus

    return any(map(names_corpus, inputs))


def encode_to_corpus(
    inputs: Sequence[Path],
    out_dir: Path | None,
    form: str,
    checkpoint: str | None,
    *,
    n_quantizers: int | None,
    partial: bool,
    n_workers: int | None,
    n_devices: int,
    executor: str,
    shard: str,
    device: str,
) -> None:
    """`encode` of a corpus: prints what was found, a bar, and what was done."""
    if out_dir is None:
        raise UsageError("a corpus is written to a folder; add --out-dir DIR")
    check_out_dir(out_dir)
    from codecctl.codes.job import encode_corpus
    from codecctl.inference.device import find_device
    from codecctl.workers import parse_shard

    if n_workers is None and executor == "processes":
        on_card = find_device(device).type == "cuda"
        n_workers = _WORKERS_A_CARD * n_devices if on_card else len(os.sched_getaffinity(0))
    started = time.monotonic()

    def show_progress(report: CorpusReport) -> None:
        speed = report.seconds / (time.monotonic() - started)
        failed = f", {report.n_failed} failed" if report.n_failed else ""
        text = f"{speed:.1f} s of audio a second, waiting for reading {report.waiting:.0%}{failed}"
        advance(report.n_done, report.n_recordings, text)

    with naming(out_dir), progress_bar("recordings", lines=True) as advance:
        report = encode_corpus(
            inputs,
            out_dir,
            find_checkpoint(checkpoint),
            container=form,
            n_quantizers=n_quantizers,
            partial_audio=partial,
            n_workers=n_workers or 1,
            executor=executor,
            shard=parse_shard(shard),
            device=device,
            n_devices=n_devices,
            on_progress=show_progress,
        )
    for note in report.notes:
        say(note)
    if report.n_units_left:
        say(f"{report.n_units_left} units are left to other jobs, the last of which completes the folder")
    if about := report.about:
        say(
            f"{out_dir}: {counted(about.n_utterances, 'recording')}, {duration(about.seconds)}, "
            f"{counted(about.n_codebooks, 'codebook')} of the model {about.fingerprint} in "
            f"{counted(len(about.shards), 'shard')}"
        )
        if about.n_failed:
            say(f"{counted(about.n_failed, 'recording')} failed; see {out_dir / 'failed.jsonl'} for the reasons")


def holds_codes(path: Path) -> bool:
    """Whether a path is a corpus of codes."""
    return (path / "codes.json").is_file()


def decode_from_corpus(
    inputs: Sequence[Path],
    out_dir: Path | None,
    form: str | None,
    ids: Sequence[str],
    checkpoint: str | None,
    device: str,
) -> None:
    """`decode` of a corpus, or of the utterances that are named."""
    if len(inputs) > 1 or out_dir is None:
        raise UsageError("a corpus of codes is decoded alone, to a folder; name one, and --out-dir DIR")
    check_out_dir(out_dir)
    if form not in (None, "wav", "flac"):
        raise UsageError(f"--format {form}: expected wav or flac")
    model = find_checkpoint(checkpoint)
    from codecctl.codes.decode import decode_corpus
    from codecctl.inference.load import Codec

    with progress_bar("decode") as progress:
        n = decode_corpus(
            inputs[0],
            out_dir,
            lambda: Codec.load(model, device),
            ids=set(ids) or None,
            suffix=f".{form or 'wav'}",
            on_progress=progress,
        )
    say(f"{inputs[0]} -> {out_dir}: {counted(n, 'recording')}")


def validate_corpus(folder: Path, as_json: bool) -> None:
    """`validate` of a corpus: prints what it holds and the use of its codebooks. Raises `CodecctlError` for damage."""
    from codecctl.codes.reading import check_corpus

    with progress_bar("check") as progress:
        check = check_corpus(folder, progress)
    if as_json:
        show(to_json({"folder": str(folder), **check.to_dict()}))
    else:
        _print_tables(folder, check)
    for problem in check.problems:
        say(f" {problem}", label="damaged:", style="bold red")
    if check.problems:
        raise CodecctlError(f"{folder}: {len(check.problems)} of its files are damaged or do not fit")


def _print_tables(folder: Path, check: CorpusCheck) -> None:
    from codecctl.cli.validate import print_codebooks

    about = check.about
    form = "" if about.container == "shards" else f" of {about.container}"
    show(
        f"{folder}: {counted(about.n_utterances, 'recording')}, {duration(about.seconds)}, {about.n_failed} failed, "
        f"{counted(about.n_codebooks, 'codebook')} of the model {about.fingerprint} in "
        f"{counted(len(about.shards), 'shard')}{form}"
    )
    heading, _, scale = time_unit(about.seconds)
    rows = [
        (key, name, f"{seconds / scale:.2f}")
        for key, names in check.seconds_by.items()
        for name, seconds in sorted(names.items(), key=lambda item: -item[1])[:_MOST_ROWS]
    ]
    show_table(("", "", f">{heading}"), rows)
    print_codebooks(check.codebooks)
