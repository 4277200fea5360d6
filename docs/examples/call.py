"""A call through a bad network: one process encodes and sends, another one receives and decodes, over UDP on loopback.

    python docs/examples/call.py in.wav out.wav --loss 10 --jitter 20

Each 20 ms frame is a packet: its number, the time when its last sample was there, and its codes in 81 bits. Packets are
dropped and delayed at random. The receiver plays the first frame 40 ms after its packet, then one every 20 ms, and
conceals a frame whose packet is not there in time. At the end it prints what happened.
"""

from __future__ import annotations

import argparse
import heapq
import multiprocessing
import random
import socket
import statistics
import struct
import time
from multiprocessing.connection import Connection

import numpy as np
import torch

from codecctl import Codec
from codecctl.audio import Audio
from codecctl.audio.files import AudioWriter, read_audio, to_mono
from codecctl.bitstream import pack_codes, unpack_codes
from codecctl.errors import CodecctlError
from codecctl.inference.precision import set_precision

BUFFERED = 2  # frames that the receiver waits before it plays the first one
HEAD = struct.Struct("<Hd")  # number of the frame, modulo 65536, and the time of its last sample
START_SECONDS = 60.0  # in which the first packet arrives


Model = tuple[Codec, tuple[int, ...], float]


class Network:
    """A socket that drops and delays packets."""

    def __init__(self, address: tuple[str, int], loss: float, jitter: float) -> None:
        """`loss`: probability; `jitter`: seconds, the longest delay."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._address, self._loss, self._jitter = address, loss, jitter
        self._random = random.Random(0)
        self._on_the_way: list[tuple[float, bytes]] = []
        self.n_dropped = 0

    def send(self, packet: bytes) -> None:
        if self._random.random() < self._loss:
            self.n_dropped += 1
        else:
            heapq.heappush(self._on_the_way, (time.monotonic() + self._random.uniform(0, self._jitter), packet))

    def wait_until(self, moment: float) -> None:
        """Packets arrive meanwhile."""
        while self._on_the_way and self._on_the_way[0][0] <= moment:
            due, packet = heapq.heappop(self._on_the_way)
            time.sleep(max(0.0, due - time.monotonic()))
            self._socket.sendto(packet, self._address)
        time.sleep(max(0.0, moment - time.monotonic()))


def load(model: str) -> Model:
    """The codec, the bits of its codes, and the seconds of a frame."""
    torch.set_num_threads(1)
    codec = Codec.load(model, "cpu")
    set_precision(codec)
    bits = tuple((size - 1).bit_length() for size in codec.config.quantizer.codebook_sizes)
    return codec, bits, codec.hop_length / codec.sample_rate


def call(samples: Audio, options: argparse.Namespace, address: tuple[str, int], control: Connection) -> None:
    """Encode and send, a frame every 20 ms. `samples`: [1, L]."""
    codec, bits, frame_seconds = load(options.model)
    audio = torch.from_numpy(samples)[None]
    frames = audio[..., : audio.shape[-1] // codec.hop_length * codec.hop_length].split(codec.hop_length, dim=-1)
    network = Network(address, options.loss / 100, options.jitter / 1000)
    encoder, encode_times = codec.stream_encoder(traced=True), []
    control.send(len(frames))
    control.recv()  # the other side is ready
    start = time.monotonic()
    for number, frame in enumerate(frames):
        complete = start + (number + 1) * frame_seconds
        network.wait_until(complete)  # the microphone
        started = time.monotonic()
        codes = encoder.push(frame)[0].numpy()
        network.send(HEAD.pack(number % 2**16, complete) + pack_codes(codes, bits))
        encode_times.append(time.monotonic() - started)
    network.wait_until(time.monotonic() + options.jitter / 1000)
    control.send((network.n_dropped, encode_times))


def answer(model: Model, output: AudioWriter, receiver: socket.socket, control: Connection) -> None:
    """Receive, decode and play, a frame every 20 ms; print what happened."""
    codec, bits, frame_seconds = model
    n_frames = control.recv()
    decoder, buffer, played = codec.stream_decoder(traced=True), {}, []
    decode_times, delays, n_late = [], [], 0
    in_decoder = codec.config.delay / codec.sample_rate
    control.send("ready")
    start = None
    for number in range(n_frames):
        while start is None or (left := start + number * frame_seconds - time.monotonic()) > 0:
            receiver.settimeout(START_SECONDS if start is None else left)
            try:
                packet = receiver.recv(2048)
            except TimeoutError:
                if start is None:
                    raise SystemExit("no packet arrived") from None
                break
            near, complete = HEAD.unpack_from(packet)
            arrived = number + (near - number + 2**15) % 2**16 - 2**15
            start = start or time.monotonic() + (BUFFERED - arrived) * frame_seconds
            if arrived < number:
                n_late += 1
            else:
                buffer[arrived] = complete, packet[HEAD.size :]
        started = time.monotonic()
        complete, packed = buffer.pop(number, (None, None))
        codes = None if packed is None else torch.from_numpy(unpack_codes(packed, bits, 1).astype(np.int64))[None]
        # A sound card would take it here; it starts `in_decoder` seconds later, as the first frame has so much less.
        played.append(decoder.push(codes)[0].numpy())
        decode_times.append(time.monotonic() - started)
        delays += [] if complete is None else [time.monotonic() - complete + frame_seconds + in_decoder]
    played.append(decoder.flush()[0].numpy())
    output.write(np.concatenate(played, axis=1))
    n_dropped, encode_times = control.recv()
    print(f"{n_frames} frames sent, {n_dropped} dropped on the way, {n_late} late, {n_frames - len(delays)} concealed")
    print(f"encode {in_words(encode_times)}; decode {in_words(decode_times)}")
    print(f"from the first sample of a frame to its playing {in_words(delays)}")


def in_words(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return "unknown"
    cuts = statistics.quantiles([1000 * second for second in seconds], n=100)
    return f"p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="audio file at the codec's rate")
    parser.add_argument("output", help="WAV of what was received")
    parser.add_argument("--loss", type=float, default=10, help="percent of the packets")
    parser.add_argument("--jitter", type=float, default=20, help="longest delay of a packet, ms")
    parser.add_argument("--model", default="starter", help="a checkpoint")
    options = parser.parse_args()
    try:
        run(options)
    except CodecctlError as error:
        raise SystemExit(str(error)) from None
    except EOFError:
        raise SystemExit("the caller ended") from None


def run(options: argparse.Namespace) -> None:
    """The caller is a process of its own. Raises `CodecctlError` for files that cannot be read or written."""
    model, (samples, rate) = load(options.model), read_audio(options.input)
    if rate != model[0].sample_rate:
        raise CodecctlError(f"{options.input}: {rate} Hz; this codec needs {model[0].sample_rate} Hz")
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver, AudioWriter(options.output, rate) as output:
        receiver.bind(("127.0.0.1", 0))
        arguments = (to_mono(samples), options, receiver.getsockname(), there)
        caller = context.Process(target=call, args=arguments, daemon=True)
        caller.start()
        there.close()
        answer(model, output, receiver, here)
        caller.join()


if __name__ == "__main__":
    main()
