"""The audio items of a downloaded corpus, as its recipe's layout describes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from codecctl.audio.files import AUDIO_SUFFIXES
from codecctl.data.download.layout import Layout, Parquet, Table, glob_files
from codecctl.data.download.recipes import Corpus
from codecctl.data.prepare.items import AudioItem, item_of_file
from codecctl.data.prepare.parquet import items_of_parquet
from codecctl.data.tables import read_delimited


def items_of_corpus(corpus: Corpus, folder: Path) -> Iterator[AudioItem]:
    """Every recording below a corpus' folder, sorted by path.

    Where the layout's glob matches nothing (it may be a guess), every audio file counts, and the rest is unknown.
    """
    known = {"dataset": corpus.name, "language": corpus.languages[0], "licence": corpus.licence.name}
    layout = corpus.layout
    rows = _read_rows(folder, layout.table) if layout.table else {}
    for path in layout.find_recordings(folder):
        if layout.parquet is not None:
            yield from items_of_parquet(path, folder, known, lossy=layout.lossy, columns=_columns(layout.parquet))
            continue
        place = path.relative_to(folder).as_posix()
        in_path = _match(layout, place)
        stated = {key: value for key, value in in_path.items() if key in ("speaker", "language")}
        stated |= {"text": text} if layout.transcript and (text := _read_text(folder, layout, in_path)) else {}
        stated |= rows.get(path.stem, {})
        yield item_of_file(
            place,
            str(PurePosixPath(place).with_suffix("")),
            ({"speaker": layout.speaker} if layout.speaker else {}) | known | stated,
            corpus.name,
            path,
            lossy=layout.lossy,
            raw_rate=layout.sample_rate if layout.raw_pcm else None,
        )


def _columns(parquet: Parquet) -> dict[str, tuple[str, ...]]:
    return {name: getattr(parquet, name) for name in ("audio", "speaker", "language", "text")}


def _match(layout: Layout, place: str) -> dict[str, str]:
    """What the path states by the layout's pattern."""
    match = re.search(layout.pattern, place) if layout.pattern else None
    return {name: value for name, value in (match.groupdict() if match else {}).items() if value}


def _read_rows(folder: Path, table: Table) -> dict[str, dict[str, str]]:
    """Stem of the recording's name -> speaker, language and text, as far as the table has them."""
    wanted = {ours: column for ours in ("speaker", "language", "text") if (column := getattr(table, ours))}
    rows: dict[str, dict[str, str]] = {}
    for path in glob_files(folder, table.path):
        for row in read_delimited(path, table.delimiter, table.columns):
            name = PurePosixPath(row.get(table.key, ""))
            stem = name.stem if name.suffix.lower() in AUDIO_SUFFIXES else name.name
            rows[stem] = {ours: row[column] for ours, column in wanted.items() if row.get(column)}
    return rows


def _read_text(folder: Path, layout: Layout, known: Mapping[str, str]) -> str | None:
    """The transcript in a file of its own; None where there is none, as for some recordings of some corpora."""
    try:
        path = folder / (layout.transcript or "").format_map(known)
        return path.read_text(encoding="utf-8-sig", errors="replace").strip() or None
    except (KeyError, OSError):
        return None
