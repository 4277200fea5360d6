"""`codecctl download`: bring public corpora to this disk."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from codecctl.cli.console import LINE_SECONDS, duration, say, show, show_table, size
from codecctl.data.download.progress import Progress
from codecctl.errors import CodecctlError, Interrupted, UsageError
from codecctl.text import printable

if TYPE_CHECKING:
    from rich.progress import TaskID

    from codecctl.data.download.corpus import Plan
    from codecctl.data.download.recipes import Corpus, Licence, Status
    from codecctl.data.download.run import Outcome

_MANY_PARTS = 12  # of a recipe: then the list has one row for them


class Bars(Progress):
    """A bar for each file and one for all; where stderr is no terminal, a line every 30 seconds."""

    def __init__(self, n_bytes: int) -> None:
        from rich import progress as rich
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        columns = (rich.TextColumn("{task.description}", markup=False), rich.BarColumn(), rich.DownloadColumn())
        speed = (rich.TransferSpeedColumn(), rich.TimeRemainingColumn())
        self._is_live = console.is_terminal
        self._bars = rich.Progress(*columns, *speed, console=console, transient=True, disable=not self._is_live)
        self._planned = n_bytes
        self._overall = self._bars.add_task("all", total=n_bytes or None)
        self._lock = threading.Lock()
        self._done: dict[str, int] = {}  # bytes of each file that have arrived
        self._totals: dict[str, int] = {}
        self._tasks: dict[str, TaskID] = {}
        self._fetching: set[str] = set()
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def begin(self, name: str, done: int, total: int | None, *, verb: str) -> None:
        with self._lock:
            if again := name in self._tasks:
                self._bars.remove_task(self._tasks[name])
            shown = f"{verb} {printable(Path(name).name)}"
            self._tasks[name] = self._bars.add_task(shown, total=total, completed=done)
            if verb == "fetch":
                self._fetching.add(name)
                self._totals[name], self._done[name] = total or 0, done
                if done:  # was here before: no part of the speed
                    self._bars.reset(self._overall, completed=sum(self._done.values()))
        if not self._is_live and not (again and verb == "fetch"):
            self.say(f"{verb} {name}" + (f" ({size(total)})" if total else ""))

    def advance(self, name: str, done: int) -> None:
        with self._lock:
            if name in self._tasks:
                self._bars.update(self._tasks[name], completed=done)
            if name not in self._fetching:
                return
            self._done[name] = done
            total = max(self._planned, sum(self._totals.values()))
            self._bars.update(self._overall, completed=sum(self._done.values()), total=total or None)
            if not self._is_live and time.monotonic() - self._last_line > LINE_SECONDS:
                self._last_line = time.monotonic()
                self.say(self._line())

    def end(self, name: str) -> None:
        with self._lock:
            self._fetching.discard(name)
            if (task := self._tasks.pop(name, None)) is not None:
                self._bars.remove_task(task)

    def say(self, text: str) -> None:
        self._bars.console.print(printable(text), markup=False, soft_wrap=True)

    def aside(self, ask: Callable[[Licence], bool]) -> Callable[[Licence], bool]:
        """`ask`, while the bars are hidden."""

        def asked(licence: Licence) -> bool:
            self._bars.stop()
            try:
                return ask(licence)
            finally:
                self._bars.start()

        return asked

    def _line(self) -> str:
        everything = next(task for task in self._bars.tasks if task.id == self._overall)
        speed = f", {size(everything.speed)}/s" if everything.speed else ""
        left = f", {duration(everything.time_remaining)} left" if everything.time_remaining else ""
        return f"{size(everything.completed)} of {size(everything.total)}{speed}{left}"


def download(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|YAML", help="Corpora, e.g. slr66-te. NAME@ID: another dataset id or commit."),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="List the corpora.")] = False,
    root: Annotated[Path, typer.Option(metavar="FOLDER", help="Where each corpus gets a folder of its name.")] = Path(
        "data/raw"
    ),
    tier: Annotated[
        list[int] | None,
        typer.Option(min=1, max=3, metavar="1|2|3", help="Only of this tier; repeatable.", show_default="all"),
    ] = None,
    language: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Only in this language; repeatable.", show_default="all")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be fetched, from where, and if it fits.")
    ] = False,
    accept_licence: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Agree to a licence; repeatable.")
    ] = None,
) -> None:
    """Download public speech corpora. The same command resumes an interrupted download.

    Files are checked against published hashes and unpacked; a corpus.json marks a complete corpus for `prepare`.

    Example: codecctl download slr66-te --root data/raw
    """
    from codecctl.data.download import run as library
    from codecctl.data.download.corpus import make_plan
    from codecctl.data.download.disk import free_bytes
    from codecctl.data.download.recipes import choose, read_recipes

    bare, pins = library.split_pins(names or [])
    if not (bare or tier or language or show_list):
        raise UsageError(
            "name what to download, or use --tier or --language; `codecctl download --list` shows what there is"
        )
    corpora = choose(read_recipes(), bare, tiers=tier or (), languages=language or ())
    if show_list:
        everything = bare or tier or language
        _show_corpora(corpora if everything else read_recipes())
        say("~ not verified in a primary source; sizes are of what is fetched; 'by name': not part of a tier")
        return
    if not corpora:
        raise UsageError(
            "no corpus fits these names, tiers and languages; `codecctl download --list` shows what there is"
        )
    plans = make_plan(corpora, root)
    if dry_run:
        _print_plan(plans, free_bytes(root), root)
        return
    with Bars(sum(plan.n_bytes or 0 for plan in plans)) as bars:
        try:
            outcomes = library.download(
                corpora, root, pins=pins, accepted=accept_licence or (), ask=bars.aside(_ask), progress=bars
            )
        except KeyboardInterrupt:
            message = "stopped; what has arrived is kept, and the same command resumes from there"
            raise Interrupted(message, signal.SIGINT) from None
    _report(outcomes)


def _report(outcomes: Sequence[Outcome]) -> None:
    """Results on stdout, what is left to do on stderr. Raises `CodecctlError` if a corpus is missing."""
    for outcome in outcomes:
        if outcome.state in ("downloaded", "already there"):
            show(str(outcome.folder), outcome.state, f"{outcome.n_audio_files} files", size(outcome.n_bytes))
            continue
        say(f": {outcome.message or 'must be fetched by hand'}", label=outcome.corpus.name)
        if outcome.steps:
            say(f"  its licence: {outcome.corpus.licence.name}, {outcome.corpus.licence.url}")
        for number, step in enumerate(outcome.steps, start=1):
            say(f"  {number}. {step.replace('{folder}', str(outcome.folder))}")
    missing = [outcome.corpus.name for outcome in outcomes if outcome.state in ("by hand", "failed")]
    if missing:
        raise CodecctlError(f"not here yet: {', '.join(missing)}; see above, then run the same command again")


def _ask(licence: Licence) -> bool:
    """Show a licence and ask for consent; False without a terminal."""
    if not sys.stdin.isatty():
        return False
    say(f": {licence.url}", label=licence.name)
    if licence.note:
        say(licence.note)
    return typer.confirm("Have you read it, and do you agree to it?", default=False, err=True)


def _show_corpora(corpora: Sequence[Corpus]) -> None:
    rows = []
    for name, group in _fold(corpora):
        first = group[0]
        languages = sorted({language for corpus in group for language in corpus.languages})
        rows.append(
            (
                name,
                ", ".join(languages) if len(languages) < 6 else f"{len(languages)} languages",
                _mark(_span([corpus.hours for corpus in group], "{:,.1f}".format), first.verified.hours),
                _mark(_span([corpus.source.n_bytes for corpus in group], size), first.verified.bytes),
                first.licence.name + (" (asks)" if first.licence.consent else ""),
                first.gate.needs if first.gate else "",
                " ".join(sorted({str(c.tier) if c.tier and c.enabled else "by name" for c in group})),
            )
        )
    show_table(("name", "language", ">hours", ">size", "licence", "gate", "tier"), rows)


def _fold(corpora: Sequence[Corpus]) -> list[tuple[str, list[Corpus]]]:
    """One row a corpus, and one for all the parts of a recipe that has many."""
    groups: dict[str, list[Corpus]] = {}
    for corpus in corpora:
        groups.setdefault(corpus.title, []).append(corpus)
    rows = []
    for group in groups.values():
        if len(group) > _MANY_PARTS:
            recipe, _, _ = group[0].name.partition("-")
            rows.append((f"{recipe}-CODE (e.g. {group[0].name})", group))
        else:
            rows.extend((corpus.name, [corpus]) for corpus in group)
    return rows


def _print_plan(plans: Sequence[Plan], free: int, root: Path) -> None:
    rows = [
        (
            plan.corpus.name,
            "; else ".join(plan.origins),
            _mark(size(plan.n_bytes), plan.corpus.verified.bytes),
            _mark(size(plan.n_bytes_needed), plan.corpus.verified.bytes),
            plan.corpus.gate.needs if plan.corpus.gate else "",
            plan.corpus.licence.name + (" (asks)" if plan.asks_consent else ""),
            "there" if plan.done else "started" if plan.folder.is_dir() else "new",
        )
        for plan in plans
    ]
    show_table(("name", "from", ">to fetch", ">room", "gate", "licence", "state"), rows)
    needed = sum(plan.n_bytes_needed or 0 for plan in plans)
    unknown = sum(plan.n_bytes_needed is None for plan in plans)
    corpora = "one corpus" if unknown == 1 else f"{unknown} corpora"
    more = f" plus {corpora} of unknown size" if unknown else ""
    fits = "enough" if needed < free else "not enough"
    say(f"{root}: needs {size(needed)}{more}; {size(free)} free: {fits}")
    if needed >= free:
        raise CodecctlError(f"{root}: not enough room; make some, choose fewer or give another --root")


def _mark(text: str, status: Status | None) -> str:
    return text if status in ("V", None) or text == "?" else f"~{text}"


def _span(values: Sequence[float | None], text: Callable[[float], str]) -> str:
    """One text for all values, or `smallest to largest`."""
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return "?" if not known else "varies"
    return " to ".join(dict.fromkeys(text(value) for value in (min(known), max(known))))
