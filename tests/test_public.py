"""The public interface: what `codecctl.__all__` and its docstring list, and nothing heavy before it is used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import codecctl


def test_the_public_names() -> None:
    assert codecctl.__all__ == [
        "Checkpoint", "Codec", "CodecctlError", "StreamDecoder", "StreamEncoder", "UsageError", "__version__",
        "decode_file", "encode_file",
    ]  # fmt: skip
    assert dir(codecctl) == sorted(codecctl.__all__)


@pytest.mark.parametrize("name", codecctl.__all__)
def test_every_public_name_is_there_and_explained(name: str) -> None:
    value = getattr(codecctl, name)
    assert isinstance(value, str) or (value.__doc__ and value.__name__ == name)


def test_the_documents_import_what_is_public() -> None:
    root, imports = Path(__file__).parents[1], re.compile(r"^ *(?:from|import) (codecctl\.[\w.]+)", re.MULTILINE)
    documents = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("docs/**/*.py")]
    modules = {name for document in documents for name in imports.findall(document.read_text(encoding="utf-8"))}
    assert modules == set(re.findall(r"`(codecctl\.[\w.]+)`", codecctl.__doc__ or ""))


def test_a_name_that_is_not_public_is_an_error() -> None:
    with pytest.raises(AttributeError, match="module 'codecctl' has no attribute 'Codek'"):
        _ = codecctl.Codek


def test_the_package_is_imported_without_torch() -> None:
    code = "import sys, codecctl; dir(codecctl); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
