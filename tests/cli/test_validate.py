import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from codecctl.cli.validate import validate
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec

app = typer.Typer()
app.command()(validate)


@pytest.fixture
def checkpoint(tiny_codec: Codec, tmp_path: Path) -> Path:
    save_codec(tiny_codec, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


def test_json_is_all_there_is_on_stdout(checkpoint: Path, speech_files: list[Path]) -> None:
    result = CliRunner().invoke(app, [str(checkpoint), "--data", str(speech_files[0]), "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["n_utterances"] == 1
    assert set(told["metrics"]) >= {"snr_db", "si_sdr_db", "mel_distance"}
    assert [book["codebook_size"] for book in told["books"]] == [32, 16, 16]


def test_without_data_it_says_that_it_takes_the_clips(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["--checkpoint", str(checkpoint), "--limit", "2"])
    assert result.exit_code == 0, result.output
    assert "bundled clips" in result.stderr
    assert "2 recordings" in result.stdout
    assert "perplexity" in result.stdout


def test_a_model_is_needed_and_one_is_enough(checkpoint: Path) -> None:
    for arguments in ([], [str(checkpoint), "--checkpoint", str(checkpoint)]):
        result = CliRunner().invoke(app, arguments)
        assert "model" in str(result.exception), result.output


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, codecctl.cli.validate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
