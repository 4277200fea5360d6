"""A codec as ONNX files: whole recordings of any length, and one frame of a stream with its states.

The files for recordings run the frames in chunks, in a `Scan` whose body is the step of a stream: memory does not grow
with the length, and a recording and a stream give the same. The tracer of `torch.onnx` is used, not its exporter by
`torch.export`, which takes ten times as long for these graphs.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecctl import __version__
from codecctl.errors import UsageError
from codecctl.export.folder import new_folder
from codecctl.export.steps import DecoderStep, EncoderStep, PlainOperations, Step, in_plain_operations
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.export import SMALL, keeps_16_bits, rounded
from codecctl.inference.identity import fingerprint
from codecctl.inference.load import Codec

OPSET = 18
_CHUNK = 32  # frames of a recording that are computed at once
_NAMES = {EncoderStep: ("input_values", "audio_codes"), DecoderStep: ("audio_codes", "audio_values")}
_INSTALL = 'ONNX files need packages that are not installed: pip install "codecctl[onnx]"'


def write_onnx(source: Checkpoint, folder: Path) -> dict[str, int]:
    """Write `encoder_model`, `decoder_model`, `encoder_step` and `decoder_step`, each as `.onnx` in float32 and as
    `_int8.onnx`; returns the bytes of each file.

    Raises `UsageError` if the folder exists and is not empty, or if onnx is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise UsageError(_INSTALL) from None
    weights = rounded(source.model, source.weights)
    smaller = replace(source, weights=weights, fingerprint=fingerprint(source.model, weights))
    with new_folder(folder) as partial:
        codec = in_plain_operations(Codec.of(source, torch.device("cpu")))
        for side, kind in (("encoder", EncoderStep), ("decoder", DecoderStep)):
            step, chunk = kind(codec, 1), kind(codec, _CHUNK)
            graphs = {f"{side}_step": _traced(step), f"{side}_model": _over_chunks(_traced(chunk), chunk)}
            for name, model in graphs.items():
                onnx.save(_labelled(model, source), partial / f"{name}.onnx")
                onnx.save(_labelled(_with_int8(model, smaller), smaller), partial / f"{name}_int8.onnx")
        return {path.name: path.stat().st_size for path in sorted(partial.iterdir())}


def _traced(step: Step) -> Any:
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
            file,
            dynamo=False,
            opset_version=OPSET,
            do_constant_folding=False,
            input_names=[first, *(f"state_in_{i}" for i in range(n_states))],
            output_names=[result, *(f"state_out_{i}" for i in range(n_states))],
        )
    return onnx.load_from_string(file.getvalue())


def _over_chunks(model: Any, step: Step) -> Any:
    """A model of a recording of any length: the step over its chunks, from states of zeros."""
    from onnx import TensorProto, helper, numpy_helper

    body, codec = model.graph, step.codec
    (first, *states), (result, *new_states) = list(body.input), list(body.output)
    del body.input[:], body.output[:]
    body.input.extend([*states, first])
    body.output.extend([*new_states, result])
    hop, delay, is_encoder = codec.hop_length, codec.config.delay, isinstance(step, EncoderStep)
    size = _CHUNK * hop if is_encoder else _CHUNK  # of a chunk along the last axis
    late = 0 if is_encoder else codec.n_frames(delay)
    nodes: list[Any] = []
    constants: dict[str, Any] = {}

    def constant(name: str, value: Any, kind: type = np.int64) -> str:
        constants[name] = numpy_helper.from_array(np.asarray(value, kind), name)
        return name

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    # The names that the body has must not appear outside of it.
    whole, decoded = ("input_values", "audio_codes") if is_encoder else ("audio_codes", "audio_values")
    body = _renamed(body, {whole: "chunk", decoded: "chunk_result"})
    one, end, zeros = constant("one", [1]), constant("size", [size]), constant("no_pad", [0, 0, 0, 0, 0])
    length = node("Slice", [node("Shape", [whole], "shape"), constant("two", [2]), constant("three", [3])], "length")
    wanted = node("Add", [length, constant("late", [late])], "wanted")
    n_chunks = node("Div", [node("Add", [wanted, constant("size_less_one", [size - 1])], "up"), end], "n_chunks")
    missing = node("Sub", [node("Mul", [n_chunks, end], "full"), length], "missing")
    pads = node("Concat", [zeros, missing], "pads", axis=0)
    fill = constant("fill", 0.0, np.float32) if is_encoder else constant("fill", -1)
    padded = node("Pad", [whole, pads, fill], "padded")
    shape = node("Concat", [constant("rows", [1, -1]), n_chunks, end], "rows_shape", axis=0)
    rows = node(
        "Transpose",
        [
            node("Reshape", [padded, shape], "by_row"),
        ],
        "chunks",
        perm=[2, 0, 1, 3],
    )
    starts = []
    for state, value in zip(states, step.states, strict=True):
        zero = helper.make_tensor("zero", helper.np_dtype_to_tensor_dtype(value.numpy().dtype), [1], [0])
        dims = constant(f"{state.name}_shape", list(value.shape))
        starts.append(node("ConstantOfShape", [dims], f"{state.name}_start", value=zero))
    ends = [f"{state.name}_end" for state in states]
    nodes.append(helper.make_node("Scan", [*starts, rows], [*ends, "results"], num_scan_inputs=1, body=body))
    joined = node("Transpose", ["results"], "joined", perm=[1, 2, 0, 3])  # [1, C, chunks, L]
    n_rows = codec.n_codebooks if is_encoder else 1
    flat = node("Reshape", [joined, constant("flat", [1, n_rows, -1])], "flat_result")
    if is_encoder:
        frames = node("Add", [length, constant("hop_less_one", [hop - 1])], "frames_up")
        first_end = node("Div", [frames, constant("hop", [hop])], "n_frames")
        begin = constant("begin", [0])
    else:
        n_samples = node("Mul", [length, constant("hop", [hop])], "n_samples")
        begin = constant("begin", [delay])
        first_end = node("Add", [n_samples, begin], "last")
    node("Slice", [flat, begin, first_end, constant("axis", [2]), one], decoded)
    kinds = (TensorProto.FLOAT, TensorProto.INT64) if is_encoder else (TensorProto.INT64, TensorProto.FLOAT)
    ends_of = ("n_samples", "n_frames") if is_encoder else ("n_frames", "n_samples")
    n_in = 1 if is_encoder else codec.n_codebooks
    graph = helper.make_graph(
        nodes,
        type(step).__name__,
        [helper.make_tensor_value_info(whole, kinds[0], [1, n_in, ends_of[0]])],
        [helper.make_tensor_value_info(decoded, kinds[1], [1, n_rows, ends_of[1]])],
        list(constants.values()),
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _renamed(graph: Any, names: Mapping[str, str]) -> Any:
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return graph


def _with_int8(model: Any, source: Checkpoint) -> Any:
    """The same model with the weights of `source`, which are rounded: as integers and a scale for each row, and those
    that keep 16 bits as these. Any runtime folds the products with the scales when it loads the file."""
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    values = Codec.of(source, torch.device("cpu")).state_dict()
    graph = _weights_graph(copy.graph)
    kept, nodes = [], []
    for initializer in graph.initializer:
        name = initializer.name.removeprefix("codec.")
        value = values.get(name)
        if value is None or value.dim() < 2 or value.numel() < SMALL:
            kept.append(initializer if value is None else _array(initializer.name, value))
        else:
            stored, made = _in_few_bits(initializer.name, value, keeps_16_bits(source.model, name))
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
    shape = [-1] + [1] * (value.dim() - 1)
    scale = value.flatten(1).abs().amax(dim=1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    integers = (value / scale.view(shape)).round().to(torch.int8)
    return [_array(stored, integers), _array(f"{name}_scale", scale.view(shape))], [
        helper.make_node("Cast", [stored], [made], to=TensorProto.FLOAT),
        helper.make_node("Mul", [made, f"{name}_scale"], [name]),
    ]


def _array(name: str, value: Tensor) -> Any:
    from onnx import numpy_helper

    return numpy_helper.from_array(value.detach().contiguous().numpy(), name)


def _labelled(model: Any, source: Checkpoint) -> Any:
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
