import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from codecctl.cli.main import run
from codecctl.inference.load import save_codec
from codecctl.model.codec import Codec
from tests.evaluate.conftest import codec  # noqa: F401

pytestmark = pytest.mark.slow

QUICK = ["--set", "validate.metrics=[]", "--set", "validate.opus_kbps=[]", "--device", "cpu"]


@pytest.fixture
def checkpoint(codec: Codec, tmp_path: Path) -> Path:  # noqa: F811
    save_codec(codec, tmp_path / "tiny.pt")
    return tmp_path / "tiny.pt"


@pytest.fixture
def clips_folder(speech_files: list[Path]) -> Path:
    return next(parent for parent in speech_files[0].parents if (parent / "metadata.tsv").is_file())


def test_stdout_holds_json_only(checkpoint: Path, speech_files: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["validate", str(checkpoint), "--data", str(speech_files[0]), "--json", *QUICK]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["n_utterances"] == 1
    assert set(record["metrics"]) >= {"snr_db", "si_sdr_db", "mel_distance"}
    assert [stats["codebook_size"] for stats in record["codebooks"]] == [32, 16, 16]
    assert "not asked for" in record["not_measured"]["pesq_wb"]


def test_without_data_the_clips_are_used_and_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["validate", "--checkpoint", str(checkpoint), "--limit", "2", *QUICK]) == 0
    output = capsys.readouterr()
    assert "--data not given and data/prepared holds no prepared data; using the bundled clips" in output.err
    assert "2 recordings" in output.out
    assert "perplexity" in output.out


def test_a_missed_requirement_is_exit_code_1_and_named(
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
    printed = capsys.readouterr().out
    assert "equal codes, by codebook: 100.0%  100.0%  100.0%" in printed
    assert f"Compared with {checkpoint}, no difference is certain." in printed


def test_a_report_is_written_and_named(
    checkpoint: Path, speech_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["validate", str(checkpoint), "--data", str(speech_files[0]), "--report", str(tmp_path / "report"), *QUICK]
    assert run(common) == 0
    assert "report: " in capsys.readouterr().err
    assert "<!doctype html>" in (tmp_path / "report" / "index.html").read_text()
    assert run([*common, "--continue"]) == 0  # all is there: nothing is measured anew


def test_recordings_that_cannot_be_measured_are_exit_code_1(
    checkpoint: Path, speech_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "good.flac").write_bytes(speech_files[0].read_bytes())
    (data / "bad[1].wav").write_bytes(b"RIFF no audio")
    assert run(["validate", str(checkpoint), "--data", str(data), "--json", *QUICK]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["n_failed"] == 1
    assert "not measured: data/bad[1]" in output.err
    assert "1 of 2 recordings could not be measured" in output.err.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_workers_and_keeps_the_scores(
    checkpoint: Path, clips_folder: Path, tmp_path: Path, number: int
) -> None:
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
        os.killpg(process.pid, number)  # as a terminal or a scheduler does it: to the workers too
        out, error = process.communicate(timeout=300)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    assert re.search(
        r"^interrupted after \d+ of 12 recordings; their scores are kept, and --continue goes on$", error, re.M
    )
    assert " of 12 recordings" in out
    assert len(rows.read_text().splitlines()) > 1


def test_the_module_does_not_import_torch() -> None:
    code = "import sys, codecctl.cli.validate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
