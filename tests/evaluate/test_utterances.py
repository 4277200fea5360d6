from pathlib import Path

import numpy as np
import pytest
import torch

from codecctl.config.schema import DataConfig
from codecctl.data.prepare import prepare
from codecctl.errors import CodecctlError
from codecctl.evaluate.utterances import ReferenceUtterance, choose, find_utterances
from tests.conftest import write_audio


def _utterance(number: int, speaker: str) -> ReferenceUtterance:
    return ReferenceUtterance(f"{speaker}-{number}", "set", "en", speaker, Path("nowhere"))


def test_a_limit_takes_speakers_in_turn_and_a_larger_one_adds_to_it() -> None:
    utterances = [_utterance(n, "many") for n in range(20)] + [_utterance(n, "few") for n in range(2)]
    four, ten = choose(utterances, 4), choose(list(reversed(utterances)), 10)
    assert sorted(r.speaker or "" for r in four) == ["few", "few", "many", "many"]
    assert ten[:4] == four
    assert len(set(ten)) == 10
    assert choose(utterances, 50) == utterances


def test_a_long_file_is_read_in_even_chunks_without_loss(tmp_path: Path) -> None:
    audio = (0.1 * np.sin(np.arange(65 * 8000) / 10)).astype(np.float32)[None]
    write_audio(tmp_path / "long.wav", audio, 8000)
    chunks = list(find_utterances(tmp_path / "long.wav")[0].chunks(16000))
    assert [round(chunk.shape[-1] / 16000) for chunk in chunks] == [22, 22, 22]
    assert sum(chunk.shape[-1] for chunk in chunks) == 65 * 16000


def test_stereo_at_another_rate_becomes_mono_at_the_codecs_rate(tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(44100) / 44100)
    write_audio(tmp_path / "a.flac", np.stack([tone, 0 * tone]).astype(np.float32), 44100)
    (chunk,) = find_utterances(tmp_path)[0].chunks(16000)
    expected = 0.25 * torch.sin(2 * torch.pi * 440 * torch.arange(16000) / 16000)
    torch.testing.assert_close(chunk[0, 500:-500], expected[500:-500], atol=2e-3, rtol=0)


def test_a_place_without_audio_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing.wav"):
        with pytest.raises(CodecctlError, match=str(path)):
            find_utterances(path)


def test_language_and_speaker_are_read_from_the_folders_list(speech_files: list[Path]) -> None:
    clips = next(parent for parent in speech_files[0].parents if (parent / "metadata.tsv").is_file())
    assert {r.language for r in find_utterances(clips)} == {"en", "es", "it"}


def test_transcripts_of_a_prepared_folder_are_known(tmp_path: Path) -> None:
    folder = tmp_path / "speech"
    folder.mkdir()
    for number in range(2):
        audio = 0.1 * np.random.default_rng(number).standard_normal(8000)
        write_audio(folder / f"{number}.wav", audio[None], 16_000)
    (folder / "metadata.csv").write_text("path,text\n0.wav,one two\n1.wav,one two\n")
    prepare([folder], tmp_path / "out", DataConfig(validation_share=0.5))
    assert [utterance.text for utterance in find_utterances(tmp_path / "out")] == ["one two"]
