import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codecctl.cli.main import run
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec
from tests.evaluate.conftest import codec  # noqa: F401  the small codec of the rooms below

QUICK = ["--set", "validate.metrics=[]", "--set", "validate.opus_kbps=[]", "--device", "cpu"]


@pytest.fixture
def checkpoint(codec: Codec, tmp_path: Path) -> Path:  # noqa: F811
    save_codec(codec, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture
def clips_folder(speech_files: list[Path]) -> Path:
    return next(parent for parent in speech_files[0].parents if (parent / "metadata.tsv").is_file())


def test_json_is_all_there_is_on_stdout(
    checkpoint: Path, speech_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["validate", str(checkpoint), "--data", str(speech_files[0]), "--json", *QUICK]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n_utterances"] == 1
    assert set(told["metrics"]) >= {"snr_db", "si_sdr_db", "mel_distance"}
    assert [book["codebook_size"] for book in told["books"]] == [32, 16, 16]
    assert "not asked for" in told["not_measured"]["pesq_wb"]


def test_without_data_it_says_that_it_takes_the_clips(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["validate", "--checkpoint", str(checkpoint), "--limit", "2", *QUICK]) == 0
    told = capsys.readouterr()
    assert "bundled clips" in told.err
    assert "2 recordings" in told.out
    assert "perplexity" in told.out


def test_a_missed_threshold_is_exit_code_1_and_its_line(
    checkpoint: Path, speech_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["validate", str(checkpoint), "--data", str(speech_files[0]), *QUICK]
    assert run([*common, "--set", "validate.require={mel_distance: 99}"]) == 0
    assert run([*common, "--set", "validate.require={mel_distance: 99, si_sdr_db: 50}"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "si_sdr_db is" in error
    assert "required is 50 or more" in error
    assert "mel_distance" not in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--checkpoint", "other.pt"],
        ["--continue"],
        ["--set", "validate.require={si_sdr: 1}"],
        ["--set", "validate.metrics=[peskq]"],
    ],
)
def test_wrong_use_is_exit_code_2(arguments: list[str], checkpoint: Path, speech_files: list[Path]) -> None:
    model = [str(checkpoint)] if arguments else ["startr"]  # neither a file nor a name
    assert run(["validate", *model, "--data", str(speech_files[0]), *arguments]) == 2


def test_against_another_checkpoint_prints_the_differences(
    checkpoint: Path, speech_files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(speech_files[0])]
    assert run(["validate", str(checkpoint), "--against", str(checkpoint), *data, *QUICK]) == 0
    assert "equal codes, by book: 100.0%  100.0%  100.0%" in capsys.readouterr().out


def test_a_report_is_written_and_named(
    checkpoint: Path, speech_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["validate", str(checkpoint), "--data", str(speech_files[0]), "--report", str(tmp_path / "report"), *QUICK]
    assert run(common) == 0
    assert "report: " in capsys.readouterr().err
    assert "<!doctype html>" in (tmp_path / "report" / "index.html").read_text()
    assert run([*common, "--continue"]) == 0  # all is there: nothing is measured anew


def test_ctrl_c_ends_the_workers_and_keeps_what_is_done(checkpoint: Path, clips_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pystoi")
    rows = tmp_path / "report" / "rows.jsonl"
    arguments = [str(checkpoint), "--data", str(clips_folder), "--report", str(rows.parent), "--device", "cpu"]
    command = [sys.executable, "-m", "codecctl.cli.main", "validate", *arguments, "--set", "validate.metrics=[stoi]"]
    command += ["--set", "validate.opus_kbps=[]", "--set", "validate.n_quantizers=[1]"]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, process_group=0
    ) as process:
        deadline = time.monotonic() + 300
        while not (rows.exists() and len(rows.read_text().splitlines()) > 1) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to the workers too
        out, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "--continue goes on" in error
    assert " of 12 recordings" in out
    assert len(rows.read_text().splitlines()) > 1


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, codecctl.cli.validate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
