"""A codec as ONNX files: whole recordings of any length, and one frame of a stream with its states.

The files for recordings run the frames in chunks, in a `Scan` whose body is the step of a stream: memory does not grow
with the length, and a recording and a stream give the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codecctl.export.graphs import CHUNK, import_onnx, labelled, traced, with_int8
from codecctl.export.steps import DecoderStep, EncoderStep, Step, in_plain_operations
from codecctl.files import new_folder
from codecctl.inference.checkpoint import Checkpoint
from codecctl.inference.identity import fingerprint
from codecctl.inference.load import Codec
from codecctl.inference.rounding import rounded


def write_onnx(source: Checkpoint, folder: Path) -> dict[str, int]:
    """Write `encoder_model`, `decoder_model`, `encoder_step` and `decoder_step`, each as `.onnx` in float32 and as
    `_int8.onnx`; returns the bytes of each file.

    Raises `UsageError` if the folder exists and is not empty, or if onnx is not installed.
    """
    onnx = import_onnx()
    weights = rounded(source.model, source.weights)
    smaller = replace(source, weights=weights, fingerprint=fingerprint(source.model, weights))
    few_bits = Codec.of(smaller, torch.device("cpu")).state_dict()
    with new_folder(folder) as partial:
        codec = in_plain_operations(Codec.of(source, torch.device("cpu")))
        for side, kind in (("encoder", EncoderStep), ("decoder", DecoderStep)):
            step, chunk = kind(codec, 1), kind(codec, CHUNK)
            graphs = {f"{side}_step": traced(step), f"{side}_model": _over_chunks(traced(chunk), chunk)}
            for name, model in graphs.items():
                onnx.save(labelled(model, source), partial / f"{name}.onnx")
                onnx.save(labelled(with_int8(model, source.model, few_bits), smaller), partial / f"{name}_int8.onnx")
        return {path.name: path.stat().st_size for path in sorted(partial.iterdir())}


def _over_chunks(model: Any, step: Step) -> Any:
    """A model of a recording of any length: the step over its chunks, from states of zeros."""
    from onnx import TensorProto, helper

    (first, *states), (result, *_) = list(model.graph.input), list(model.graph.output)
    whole, done = first.name, result.name
    body = _as_scan_body(model.graph, {whole: "chunk", done: "chunk_result"})  # names are taken in the body, too
    graph, codec = _Nodes(), step.codec
    is_encoder, hop, delay = isinstance(step, EncoderStep), codec.hop_length, codec.config.delay
    length = graph.add("Slice", graph.add("Shape", whole), graph.constant([2]), graph.constant([3]))
    size, n_after = (CHUNK * hop, 0) if is_encoder else (CHUNK, codec.n_frames(delay))
    chunks = graph.chunks(whole, length, size, n_after)
    starts = [graph.zeros(value) for value in step.states]
    ends = [f"{state.name}_end" for state in states]
    graph.nodes.append(helper.make_node("Scan", [*starts, chunks], [*ends, "results"], num_scan_inputs=1, body=body))
    n_rows = codec.n_codebooks if is_encoder else 1
    joined = graph.add("Transpose", "results", perm=[1, 2, 0, 3])  # [1, C, chunks, L]
    flat = graph.add("Reshape", joined, graph.constant([1, n_rows, -1]))
    if is_encoder:
        begin, end = graph.constant([0]), graph.divided_up(length, hop)
    else:
        begin = graph.constant([delay])
        end = graph.add("Add", graph.add("Mul", length, graph.constant([hop])), begin)
    graph.nodes.append(helper.make_node("Slice", [flat, begin, end, graph.constant([2])], [done]))
    kinds, lengths = (TensorProto.FLOAT, TensorProto.INT64), ("n_samples", "n_frames")
    if not is_encoder:
        kinds, lengths = kinds[::-1], lengths[::-1]
    shapes: tuple[list[Any], list[Any]] = (
        [1, 1 if is_encoder else codec.n_codebooks, lengths[0]],
        [1, n_rows, lengths[1]],
    )
    infos = [helper.make_tensor_value_info(*each) for each in zip((whole, done), kinds, shapes, strict=True)]
    whole_graph = helper.make_graph(graph.nodes, type(step).__name__, infos[:1], infos[1:], graph.constants)
    return helper.make_model(whole_graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _as_scan_body(graph: Any, names: Mapping[str, str]) -> Any:
    """The graph of a step with states first, and values renamed by `names`."""
    for values in (graph.input, graph.output):
        first, *states = list(values)
        del values[:]
        values.extend([*states, first])
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    return graph


class _Nodes:
    """The nodes of a graph and their constants; each node has one output, whose name it returns."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Any, kind: type = np.int64) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(np.asarray(value, kind), f"constant_{len(self.constants)}"))
        return str(self.constants[-1].name)

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        from onnx import helper

        output = f"value_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def divided_up(self, length: str, size: int) -> str:
        """ceil(length / size)"""
        return self.add("Div", self.add("Add", length, self.constant([size - 1])), self.constant([size]))

    def chunks(self, x: str, length: str, size: int, n_after: int) -> str:
        """[1, C, L] -> [n, 1, C, size]: padded to whole chunks and `n_after` more, with what stands for nothing."""
        n_chunks = self.divided_up(self.add("Add", length, self.constant([n_after])), size)
        missing = self.add("Sub", self.add("Mul", n_chunks, self.constant([size])), length)
        pads = self.add("Concat", self.constant([0] * 5), missing, axis=0)
        filling = self.constant(-1) if x == "audio_codes" else self.constant(0.0, np.float32)
        padded = self.add("Pad", x, pads, filling)
        shape = self.add("Concat", self.constant([1, -1]), n_chunks, self.constant([size]), axis=0)
        return self.add("Transpose", self.add("Reshape", padded, shape), perm=[2, 0, 1, 3])

    def zeros(self, like: Tensor) -> str:
        from onnx import helper

        zero = helper.make_tensor("zero", helper.np_dtype_to_tensor_dtype(like.numpy().dtype), [1], [0])
        return self.add("ConstantOfShape", self.constant(list(like.shape)), value=zero)
