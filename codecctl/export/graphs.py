"""ONNX models of a step of a codec: traced, with weights in few bits, labelled.

The tracer of `torch.onnx` is used, not its exporter by `torch.export`, which takes ten times as long for these graphs.
"""

from __future__ import annotations

import importlib
import io
import json
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from codecctl import __version__
from codecctl.errors import UsageError
from codecctl.export.steps import DecoderStep, EncoderStep, PlainOperations, Step
from codecctl.inference.rounding import SMALL, keeps_16_bits, to_int8

if TYPE_CHECKING:
    from codecctl.config.model import ModelConfig
    from codecctl.inference.checkpoint import Checkpoint

OPSET = 18
CHUNK = 32  # frames of a recording that are computed at once
_NAMES = {EncoderStep: ("input_values", "audio_codes"), DecoderStep: ("audio_codes", "audio_values")}


def import_onnx() -> Any:
    """The package. Raises `UsageError` if it is not installed."""
    try:
        return importlib.import_module("onnx")
    except ImportError:
        raise UsageError('ONNX files need packages that are not installed: pip install "codecctl[onnx]"') from None


def traced(step: Step) -> Any:
    """The step as an ONNX model: its input and `state_in_i`, its output and `state_out_i`."""
    import onnx

    n_states = len(step.states)
    first, result = _NAMES[type(step)]
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad(), PlainOperations():
        warnings.simplefilter("ignore")  # shapes become constants, as they should; and this exporter is the older one
        torch.onnx.export(
            step,
            (step.example(step.n_frames), *step.states),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=[first, *(f"state_in_{i}" for i in range(n_states))],
            output_names=[result, *(f"state_out_{i}" for i in range(n_states))],
        )
    return onnx.load_from_string(file.getvalue())


def with_int8(model: Any, config: ModelConfig, weights: Mapping[str, Tensor]) -> Any:
    """The same model with these weights of a codec of `config`, which are rounded: as integers and a scale for each
    row, and those that keep 16 bits as these. Any runtime folds the products with the scales when it loads the file."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = _weights_graph(copy.graph)
    kept, nodes = [], []
    for initializer in graph.initializer:
        name = initializer.name.removeprefix("codec.")
        value = weights.get(name)
        if value is None or value.dim() < 2 or value.numel() < SMALL:
            kept.append(initializer if value is None else _array(initializer.name, value))
        else:
            stored, made = _in_few_bits(initializer.name, value, keeps_16_bits(config, name))
            kept += stored
            nodes += made
    del graph.initializer[:]
    graph.initializer.extend(kept)
    all_nodes = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(all_nodes)
    return copy


def _weights_graph(graph: Any) -> Any:
    """The graph that has the weights: the body of its scan, or itself."""
    scans = [node for node in graph.node if node.op_type == "Scan"]
    return next(a.g for a in scans[0].attribute if a.name == "body") if scans else graph


def _in_few_bits(name: str, value: Tensor, is_precise: bool) -> tuple[list[Any], list[Any]]:
    """What is stored of a rounded matrix, and the nodes that make the float32 matrix `name` of it."""
    from onnx import TensorProto, helper

    stored, made = f"{name}_stored", f"{name}_float"
    if is_precise:
        return [_array(stored, value.half())], [helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)]
    integers, scale = to_int8(name, value).values()
    scale = scale.view([-1] + [1] * (value.dim() - 1))
    return [_array(stored, integers), _array(f"{name}_scale", scale)], [
        helper.make_node("Cast", [stored], [made], to=TensorProto.FLOAT),
        helper.make_node("Mul", [made, f"{name}_scale"], [name]),
    ]


def _array(name: str, value: Tensor) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value.detach().contiguous().numpy(), name)


def labelled(model: Any, source: Checkpoint) -> Any:
    """With the identity of the codec, and what a program needs to know of it."""
    config = source.model
    facts = {
        "codecctl": __version__,
        "fingerprint": source.fingerprint,
        "sample_rate": config.sample_rate,
        "hop_length": config.hop_length,
        "codebook_sizes": list(config.quantizer.codebook_sizes),
        "delay": config.delay,
    }
    del model.metadata_props[:]
    for name, value in facts.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    return model
