"""The files of `export --to onnx` in onnxruntime. No torch here."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from codecctl.errors import CodecctlError, UsageError

Audio = NDArray[np.float32]  # [1, 1, L]
Codes = NDArray[np.int64]  # [1, K, T]


class OnnxCodec:
    """Encodes and decodes recordings and streams; `precision`: `float32` or `int8`. Other files than the encoder's are
    loaded when they are used.

    Raises `UsageError` if onnxruntime is not installed, `CodecctlError` for a folder without the files.
    """

    def __init__(self, folder: str | Path, precision: str = "float32", n_threads: int = 1) -> None:
        self._folder, self._suffix = Path(folder), "" if precision == "float32" else f"_{precision}"
        self._n_threads = n_threads
        self.facts: dict[str, Any] = {}  # `sample_rate`, `hop_length`, `codebook_sizes`, `delay`, `codecctl`
        self.fingerprint: str | None = None
        self._encoder = self._load("encoder_model")

    def encode(self, audio: Audio) -> Codes:
        """[1, 1, L] -> [1, K, T]. Raises `UsageError` for another shape, integers, NaN and infinities."""
        audio = _checked_audio(audio)
        if not audio.size:
            return np.zeros((1, len(self.facts["codebook_sizes"]), 0), np.int64)
        codes: Codes = self._encoder.run(None, {"input_values": audio})[0]
        return codes

    def decode(self, codes: Codes, fingerprint: str | None = None) -> Audio:
        """[1, K, T] of the first K codebooks, -1 for a code that is not there -> [1, 1, T x hop_length].

        `fingerprint`: of the codes. Raises `CodecctlError` if they are another model's, `UsageError` for another shape
        or codes that the model does not have.
        """
        self._check(fingerprint, "the codes")
        whole = self._whole(codes)
        if not whole.size:
            return np.zeros((1, 1, 0), np.float32)
        return self._decoder.run(None, {"audio_codes": whole})[0]

    def stream_encoder(self) -> OnnxStream:
        """`push` takes one frame [1, 1, hop_length] and returns its codes [1, K, 1]."""
        return OnnxStream(self._encoder_step, _checked_audio)

    def stream_decoder(self) -> OnnxStream:
        """`push` takes the codes of one frame [1, K, 1] of the first K codebooks, -1 for a code that is not there, and
        returns [1, 1, hop_length], `facts["delay"]` samples late."""
        return OnnxStream(self._decoder_step, self._whole)

    @cached_property
    def _decoder(self) -> Any:
        return self._load("decoder_model")

    @cached_property
    def _encoder_step(self) -> Any:
        return self._load("encoder_step")

    @cached_property
    def _decoder_step(self) -> Any:
        return self._load("decoder_step")

    def _whole(self, codes: NDArray[Any]) -> Codes:
        """Codes [1, K, T] of the first K codebooks -> of all; those of the others are absent."""
        sizes = self.facts["codebook_sizes"]
        n_codebooks = codes.shape[1] if codes.ndim == 3 and len(codes) == 1 else 0
        if not 1 <= n_codebooks <= len(sizes) or codes.dtype.kind not in "iu":
            raise UsageError(f"codes must be integers [1, 1 to {len(sizes)}, T], got {codes.dtype} {list(codes.shape)}")
        codes = codes.astype(np.int64, copy=False)
        if ((codes < -1) | (codes >= np.array(sizes[:n_codebooks])[:, None])).any():
            raise UsageError(
                f"codes must be -1 (absent) or within the codebook sizes {sizes}; got {codes.min()} to {codes.max()}: "
                "were they made by another model?"
            )
        return np.pad(codes, [(0, 0), (0, len(sizes) - n_codebooks), (0, 0)], constant_values=-1)

    def _load(self, name: str) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise UsageError('onnxruntime is not installed: pip install "codecctl[onnx]"') from None
        path = self._folder / f"{name}{self._suffix}.onnx"
        if not path.is_file():
            raise CodecctlError(f"{path}: no such file; codecctl export CKPT --to onnx DIR writes it")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # it warns of shapes that the tracer left open
        options.intra_op_num_threads = options.inter_op_num_threads = self._n_threads
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own types, which it does not export
            raise CodecctlError(f"{path}: onnxruntime cannot load it ({str(error).splitlines()[0]})") from None
        facts = session.get_modelmeta().custom_metadata_map
        if "fingerprint" not in facts:
            raise CodecctlError(f"{path}: not written by codecctl export; it names no model")
        self._check(facts["fingerprint"], str(path))
        self.fingerprint = facts["fingerprint"]
        self.facts = {k: v if k in ("fingerprint", "codecctl") else json.loads(v) for k, v in facts.items()}
        return session

    def _check(self, fingerprint: str | None, what: str) -> None:
        if None not in (self.fingerprint, fingerprint) and fingerprint != self.fingerprint:
            raise CodecctlError(
                f"{what}: of the model {fingerprint}, and this is {self.fingerprint}; use the files of one export"
            )


class OnnxStream:
    """One stream of frames: a session, which other streams may share, and states of its own, zero at the start."""

    def __init__(self, session: Any, check: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
        self._session, self._check = session, check
        self._first, *states = session.get_inputs()
        kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
        self._states = {state.name: np.zeros(state.shape, kinds[state.type]) for state in states}

    def push(self, x: NDArray[Any]) -> NDArray[Any]:
        """The next frame in, its result out. Raises `UsageError` for what is none; the stream goes on without it."""
        frame = self._check(x)
        if list(frame.shape) != self._first.shape:
            raise UsageError(f"a stream takes one frame at a time, {self._first.shape}, got {list(x.shape)}")
        result, *new = self._session.run(None, {self._first.name: frame, **self._states})
        self._states = dict(zip(self._states, new, strict=True))
        return result


def _checked_audio(audio: NDArray[Any]) -> Audio:
    if audio.ndim != 3 or audio.shape[:2] != (1, 1) or audio.dtype.kind != "f":
        raise UsageError(f"audio must be float [1, 1, L] in [-1, 1], got {audio.dtype} {list(audio.shape)}")
    audio = audio.astype(np.float32, copy=False)
    if not np.isfinite(audio).all():
        raise UsageError("audio must be finite, got NaN or infinite samples; np.nan_to_num(audio) replaces them")
    return audio
