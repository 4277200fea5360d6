"""Compiled parts give the same results, and a missing compiler is named before the first step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch
from torch import Tensor

from codecctl.errors import CodecctlError
from codecctl.train.device import check_compiler
from codecctl.train.setup import start_state
from codecctl.train.step import gradients, plan_step
from tests.train.tiny import tiny_config, tiny_context, tiny_yaml

CPU = torch.device("cpu")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of torch, about itself
@pytest.mark.slow
def test_a_compiled_step_equals_a_plain_one(speech: Tensor) -> None:
    crop = speech[..., 16000 : 16000 + 640].reshape(1, 1, 640)  # no longer than a layer looks back: a compiler is slow
    small = ("model.front.strides=[32]", "model.transformer.look_back_frames=20")
    found = []
    for compiles in ("false", "true"):
        config = tiny_config(Path("unused"), *small, f"train.compile={compiles}")
        state = start_state(config, CPU)
        context = tiny_context(state, config)
        result = gradients(plan_step(state, [crop], context, config), [crop], context, config)
        found.append((result[1], [parameter.grad for parameter in state.generator.parameters()]))
    (plain, plain_gradients), (compiled, compiled_gradients) = found
    assert torch.equal(plain.codes, compiled.codes)
    torch.testing.assert_close(compiled.losses, plain.losses)
    torch.testing.assert_close(compiled_gradients, plain_gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("device", "words"), [("cpu", r"C\+\+ compiler.*g\+\+"), ("cuda", "C compiler.*gcc or clang")])
def test_a_missing_compiler_is_named(device: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CodecctlError, match=words):
        check_compiler(torch.device(device))


@pytest.mark.slow
def test_a_compiler_that_does_not_work_is_told_before_the_first_step(prepared: Path, tmp_path: Path) -> None:
    compiler, config = tmp_path / "g++", tiny_yaml(tmp_path, prepared)
    compiler.write_text("#!/bin/sh\necho 'g++: fatal error'; exit 1\n")
    compiler.chmod(0o755)
    environment = {**os.environ, "CXX": str(compiler), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    options = ["--config", config, "--run", tmp_path / "run", "--device", "cpu", "--set", "train.compile=true"]
    command = [sys.executable, "-m", "codecctl", "train", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("error: torch.compile fails: ")
    assert said.endswith("--set train.compile=false")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_missing_headers_of_python_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    with pytest.raises(CodecctlError, match=r"Python\.h is missing"):
        check_compiler(CPU)
