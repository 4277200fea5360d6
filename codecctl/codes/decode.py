"""Codes of a corpus back to audio: a file for each utterance."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from codecctl.codes.folder import About, read_complete, read_manifest
from codecctl.codes.reading import Progress, read_utterances
from codecctl.errors import CodecctlError, UsageError
from codecctl.files import NO_ROOM
from codecctl.inference.container import FRAMES_PER_CHUNK, StoredCodes, check_fingerprint
from codecctl.inference.files import write_decoded
from codecctl.inference.load import Codec


def decode_corpus(
    folder: str | Path,
    out: str | Path,
    load: Callable[[], Codec],
    *,
    ids: Collection[str] | None = None,
    suffix: str = ".wav",
    on_progress: Progress | None = None,
) -> int:
    """Decode all utterances of a folder, or those with these ids, to `out`/ID.wav (or .flac); returns their number.

    Memory is that of a shard. Nothing is written if an id is not there, if two utterances would have the same file, or
    if the codec that `load` returns has another fingerprint. Raises `CodecctlError` for these and for damaged shards,
    and at the end for names that the system refuses; a full disk ends it at once.
    """
    folder, out = Path(folder), Path(out)
    about = read_complete(folder)
    if out.resolve() == folder.resolve():
        raise UsageError(f"{out}: is the corpus itself; choose another folder")
    places = _plan(folder, about, out, suffix, ids)
    codec = load()
    check_fingerprint(about.fingerprint, str(folder), codec.fingerprint)
    failures: list[str] = []
    for number, (utterance, codes) in enumerate(read_utterances(folder, about, ids), start=1):
        target = places[utterance.id]
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            starts = range(0, utterance.n_frames, FRAMES_PER_CHUNK)
            blocks = (codes[:, start : start + FRAMES_PER_CHUNK] for start in starts)
            write_decoded(codec, StoredCodes(len(codes), utterance.n_samples, blocks), target, name=utterance.id)
        except OSError as error:
            if error.errno in NO_ROOM:
                raise
            failures.append(f"{error.filename or target}: {error.strerror}")
        if on_progress:
            on_progress(number, len(places))
    if failures:
        raise CodecctlError(f"{failures[0]}; {len(failures)} of {len(places)} recordings were not written to {out}")
    return len(places)


def _plan(folder: Path, about: About, out: Path, suffix: str, ids: Collection[str] | None) -> dict[str, Path]:
    """The file of each utterance. Raises `UsageError` if two have the same, `CodecctlError` for an incomplete list."""
    places: dict[str, Path] = {}
    taken: dict[Path, str] = {}
    n_lines = 0
    for utterance in read_manifest(folder):
        n_lines += 1
        if ids is not None and utterance.id not in ids:
            continue
        parts = [part for part in PurePosixPath(utterance.id).parts if part not in ("/", "..")]
        if not parts or "\0" in utterance.id:
            raise CodecctlError(f"{folder}: the id {utterance.id!r} names no file")
        place = out.joinpath(*parts[:-1], parts[-1] + suffix)
        if place in taken:
            raise UsageError(f"{folder}: {taken[place]!r} and {utterance.id!r} would both be written to {place}")
        places[utterance.id], taken[place] = place, utterance.id
    if n_lines != about.n_utterances:
        raise CodecctlError(
            f"{folder / 'manifest.jsonl'}: {n_lines} lines, codes.json says {about.n_utterances}; run encode again"
        )
    return places
