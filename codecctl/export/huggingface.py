"""A codec as a folder for `transformers`, which needs nothing of this package: weights, configs, code and a card.

The code is the package's own model, copied with its imports rewritten, so there is one implementation.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from torch import Tensor

import codecctl
from codecctl import __version__
from codecctl.config.model import ModelConfig
from codecctl.files import new_folder, write_json, write_lines
from codecctl.inference.card import card_lines
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.export import write_packed
from codecctl.model.codebook import without_running_sums
from codecctl.model.codec import Codec

_DERIVED = ("hop_length", "frame_rate", "latent_width", "delay", "n_codebooks", "bitrate_kbps")
_FRONT_MATTER = "---\nlibrary_name: transformers\ntags:\n- codecctl\n- audio\n- speech\n- neural-codec\n---\n"
_USE = """\
## Use

```python
from transformers import AutoFeatureExtractor, AutoModel

model = AutoModel.from_pretrained("{name}", trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained("{name}")
inputs = extractor(recordings, sampling_rate={rate}, return_tensors="pt")  # arrays of samples in [-1, 1]
with torch.no_grad():
    codes = model.encode(**inputs).audio_codes  # [B, K, T], {n_codebooks} codebooks, {frame_rate:g} frames a second
    audio = model.decode(codes).audio_values  # [B, 1, L]
```

`part="encoder"` or `part="decoder"` in `from_pretrained` loads one side alone. The codes of the first codebooks alone
can be decoded, too. With a padding mask each item of a batch gets the codes that it gets alone. Codes of another
fingerprint are those of another model: `decode(codes, fingerprint=...)` refuses them.
"""
_PACKAGE = Path(codecctl.__file__).parent
_HEADER = """\
# From codecctl {version}, file codecctl/{place}; written by `codecctl export`.
# SPDX-License-Identifier: MIT
# SPDX-FileCopyrightText: 2026 the codecctl authors

"""


def write_huggingface(source: Checkpoint, folder: Path, name: str | None = None) -> dict[str, int]:
    """Write the folder whole, or not at all; returns the bytes of each file.

    `name` is what the card calls the model, by default the name of the folder. Raises `UsageError` if the folder exists
    and is not empty.
    """
    with new_folder(folder) as partial:
        weights = {name: weight.float().contiguous() for name, weight in without_running_sums(source.weights).items()}
        tables = _tables(source.model)
        path = partial / "model.safetensors"
        write_packed(path, source.model, weights, source.step, container="pt", tables=tables)
        write_json(partial / "config.json", _config(source))
        write_json(partial / "preprocessor_config.json", _preprocessor(source.model))
        for module, text in standalone().items():
            write_lines(partial / module, [text])
        write_lines(partial / "README.md", [_card(source, name or folder.name)])
        return {path.name: path.stat().st_size for path in sorted(partial.iterdir())}


def _tables(model: ModelConfig) -> dict[str, Tensor]:
    """The tables that a codec computes when it is made: `transformers` makes models without values."""
    codec = Codec(model)
    saved = codec.state_dict().keys()
    return {name: table.clone() for name, table in codec.named_buffers() if name not in saved}


def _config(source: Checkpoint) -> dict[str, Any]:
    model = source.model
    sections = model.model_dump(mode="json") | {name: getattr(model, name) for name in _DERIVED}
    names_of_mimi_and_dac = {
        **dict.fromkeys(("num_quantizers", "num_codebooks", "n_codebooks"), model.n_codebooks),
        "codebook_size": max(model.quantizer.codebook_sizes),
        "frame_size": model.hop_length,
    }
    return {
        "model_type": "codecctl",
        "architectures": ["CodecctlModel"],
        "auto_map": {
            "AutoConfig": "configuration_codecctl.CodecctlConfig",
            "AutoModel": "modeling_codecctl.CodecctlModel",
        },
        "codecctl_version": __version__,
        "fingerprint": source.fingerprint,
        "sampling_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "frame_rate": model.frame_rate,
        "codebook_sizes": model.quantizer.codebook_sizes,
        "bitrate_kbps": model.bitrate_kbps,
        **names_of_mimi_and_dac,
        "codec": sections,
    }


def _preprocessor(model: ModelConfig) -> dict[str, Any]:
    """Of the feature extractor of DAC: mono, padded with zeros on the right to whole frames."""
    return {
        "feature_extractor_type": "DacFeatureExtractor",
        "feature_size": 1,
        "sampling_rate": model.sample_rate,
        "hop_length": model.hop_length,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }


def _card(source: Checkpoint, name: str) -> str:
    """The card that lies beside a model that is itself an export, else one made from the run."""
    model, known = source.model, source.path.with_suffix(".md")
    has_card = source.run is None and known.is_file()
    text = known.read_text(encoding="utf-8", errors="replace") if has_card else None
    lines = text.splitlines() if text else card_lines(name, source)
    use = _USE.format(name=name, rate=model.sample_rate, n_codebooks=model.n_codebooks, frame_rate=model.frame_rate)
    return "\n".join([_FRONT_MATTER, *lines, "", use])


def standalone() -> dict[str, str]:
    """The text of the exported model's module, and of all that it imports from the package, by the name of the file.

    The copies need torch and transformers alone: their imports name the file beside them. The config's classes become
    plain namespaces, as only the exporting side validates.
    """
    texts: dict[str, str] = {}
    left = ["codecctl.export.modeling_codecctl"]
    while left:
        module = left.pop()
        if _flat(module) + ".py" not in texts:
            text, imported = _rewritten(module)
            texts[_flat(module) + ".py"] = text
            left += imported
    return texts


def _rewritten(module: str) -> tuple[str, list[str]]:
    """A module's text with its imports of the package rewritten, and the modules that these name."""
    path = _PACKAGE.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    lines, imported = path.read_text(encoding="utf-8").splitlines(), []
    for node in ast.parse("\n".join(lines)).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("codecctl."):
            continue
        assert node.module
        assert node.end_lineno
        names = ", ".join(alias.name + (f" as {alias.asname}" if alias.asname else "") for alias in node.names)
        if node.module.startswith("codecctl.config."):
            new = "; ".join(f"from types import SimpleNamespace as {alias.name}" for alias in node.names)
        else:
            new = f"from .{_flat(node.module)} import {names}"
            imported.append(node.module)
        lines[node.lineno - 1 : node.end_lineno] = [new] + [""] * (node.end_lineno - node.lineno)
    header = _HEADER.format(version=__version__, place=path.relative_to(_PACKAGE).as_posix())
    return header + "\n".join(lines) + "\n", imported


def _flat(module: str) -> str:
    """`codecctl.model.fronts.front` -> `fronts_front`: transformers copies the files of one folder alone."""
    return module.removeprefix("codecctl.").removeprefix("model.").removeprefix("export.").replace(".", "_")
