from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl.config.schema import DataConfig
from codecctl.data.prepare import prepare
from codecctl.errors import CodecctlError
from codecctl.evaluate.recordings import Recording, choose, find_recordings
from tests.conftest import write_audio


def _recording(number: int, speaker: str) -> Recording:
    return Recording(f"{speaker}-{number}", "set", "en", speaker, Path("nowhere"))


def test_a_limit_takes_the_speakers_in_turn_and_grows_by_adding() -> None:
    recordings = [_recording(n, "many") for n in range(20)] + [_recording(n, "few") for n in range(2)]
    four, ten = choose(recordings, 4), choose(list(reversed(recordings)), 10)
    assert sorted(r.speaker or "" for r in four) == ["few", "few", "many", "many"]
    assert ten[:4] == four
    assert len(set(ten)) == 10
    assert choose(recordings, 50) == recordings


def test_a_long_file_comes_in_even_pieces_that_add_up(tmp_path: Path) -> None:
    audio = (0.1 * np.sin(np.arange(65 * 8000) / 10)).astype(np.float32)[None]
    write_audio(tmp_path / "long.wav", audio, 8000)
    pieces = list(find_recordings(tmp_path / "long.wav")[0].pieces(16000))
    assert [round(piece.shape[-1] / 16000) for piece in pieces] == [22, 22, 22]
    assert sum(piece.shape[-1] for piece in pieces) == 65 * 16000


def test_stereo_at_another_rate_becomes_mono_at_the_codecs(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    write_audio(tmp_path / "a.flac", np.stack([tone, 0 * tone]).astype(np.float32), 44100)
    (piece,) = find_recordings(tmp_path)[0].pieces(16000)
    expected = 0.25 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    torch.testing.assert_close(piece[0, 500:-500], expected[500:-500], atol=2e-3, rtol=0)


def test_transcripts_of_a_prepared_folder_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    for number in range(2):
        audio = 0.1 * np.random.default_rng(number).standard_normal(8000)
        write_audio(folder / f"{number}.wav", audio[None], 16_000)
    (folder / "metadata.csv").write_text("path,text\n0.wav,one two\n1.wav,one two\n")
    prepare([folder], tmp_path / "out", DataConfig(validation_share=0.5))
    assert [recording.transcript for recording in find_recordings(tmp_path / "out")] == ["one two"]


def test_what_holds_no_audio_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.wav"):
        with pytest.raises(CodecctlError, match=str(path)):
            find_recordings(path)


def test_the_folders_list_tells_language_and_speaker(speech_files: list[Path]) -> None:
    clips = next(parent for parent in speech_files[0].parents if (parent / "metadata.tsv").is_file())
    assert {r.language for r in find_recordings(clips)} == {"en", "es", "it"}
