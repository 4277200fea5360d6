"""`codecctl bench`: how fast a model codes, or a training step is, on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from codecctl.cli.console import show
from codecctl.cli.options import CheckpointOption, GpuOption, JsonOption, SetOption
from codecctl.errors import UsageError
from codecctl.files import to_json
from codecctl.inference.find import find_checkpoint

if TYPE_CHECKING:
    from codecctl.train.bench import StepTimes
    from codecctl.train.plan import Prediction

Implied = dict[str, tuple[float, float]]  # of the plan, by name: as assumed, as measured

_CORPUS_COPIES = 20  # of the bundled clips: 20 minutes of audio
_SPEEDS = ("share_of_peak", "share_of_bandwidth", "seconds_a_kernel")  # of the card, which one time cannot tell apart
_HOLDS = 0.1  # relative difference up to which an assumption of the plan is said to hold


def bench(
    checkpoint: CheckpointOption = None,
    seconds: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="S", help="Length of the speech, in seconds.")
    ] = 10.0,
    threads: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="CPU threads.", show_default="1, with --train those of torch")
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(metavar="auto|cpu|cuda|cuda:N", help="Where to compute.", show_default="cpu, with --train auto"),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="auto|float32|bfloat16|int8", help="Arithmetic of the large matrices on the CPU.")
    ] = "auto",
    peers: Annotated[
        bool, typer.Option("--peers", help="Also time EnCodec, Mimi and DAC of transformers, with random weights.")
    ] = False,
    train: Annotated[bool, typer.Option("--train", help="Time training steps on random audio, part by part.")] = False,
    config: Annotated[
        str | None,
        typer.Option(
            "--config", "-c", metavar="NAME|PATH", help="With --train: what to train.", show_default="production"
        ),
    ] = None,
    gpu: GpuOption = None,
    overrides: SetOption = None,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="With --train: steps to time.")] = 40,
    as_json: JsonOption = False,
) -> None:
    """Time a model on bundled speech: whole files, and streams a frame at a time. Or, with --train, training steps.

    Medians of several runs. real_time_factor: seconds of computing for a second of speech; below 1 is faster than real
    time. --train needs neither data nor the teacher's weights, and compares with what `train --dry-run` predicts.

    Example: codecctl bench --checkpoint runs/smoke/best.pt --threads 2
    """
    n_cpus = os.cpu_count() or 1
    if threads and threads > n_cpus:
        raise UsageError(f"--threads {threads}: this machine has {n_cpus} CPUs")
    import torch

    if threads or not train:
        torch.set_num_threads(threads or 1)
    if train:
        if checkpoint:
            raise UsageError("--checkpoint: --train times a new model; choose it with --config")
        _bench_training(config or "production", gpu, overrides, device or "auto", steps, as_json)
    elif config or gpu or overrides:
        raise UsageError("--config, --gpu and --set are for training steps; add --train")
    else:
        _bench_coding(find_checkpoint(checkpoint), seconds, threads or 1, device or "cpu", precision, peers, as_json)


def _bench_coding(
    path: Path, seconds: float, threads: int, device: str, precision: str, peers: bool, as_json: bool
) -> None:
    from codecctl.inference.load import Codec
    from codecctl.inference.precision import set_precision
    from codecctl.inference.timing import measure, measure_peers, start_up_seconds

    codec = Codec.load(path, device)
    chosen = set_precision(codec, precision)
    times = {**measure(codec, seconds), "start_up_seconds": start_up_seconds(path)}
    if next(codec.buffers()).is_cuda:
        from codecctl.codes.timing import corpus_throughput

        times["corpus_audio_seconds_per_second"] = corpus_throughput(path, device, _CORPUS_COPIES)
    others = measure_peers(seconds) if peers else {}
    if as_json:
        what = {"checkpoint": str(path), "fingerprint": codec.fingerprint, "threads": threads, "precision": chosen}
        show(to_json({**what, **times, **({"peers": others} if peers else {})}))
        return
    show(f"{path.name} ({codec.fingerprint}), {seconds:g} s of speech, {threads} thread(s), {device}, {chosen}")
    for name, value in times.items():
        show(f"{name:32}  {value:.4g}")
    for peer, factors in others.items():
        for name, value in factors.items():
            show(f"{peer} {name}".ljust(48) + f"  {value:.4g}")


def _bench_training(
    config: str, gpu: str | None, overrides: list[str] | None, device: str, n_steps: int, as_json: bool
) -> None:
    import torch

    from codecctl.config.load import load_config
    from codecctl.train.bench import implied_assumptions, measure_steps
    from codecctl.train.device import training_device
    from codecctl.train.plan import make_plan

    settings = load_config(config, gpu=gpu, overrides=overrides or ())
    times = measure_steps(settings, training_device(device, settings), n_steps)
    prediction = make_plan(settings).step
    assumptions = implied_assumptions(times, prediction)
    if as_json:
        where = {"config": config, "gpu": gpu, "torch": torch.__version__, "cuda": torch.version.cuda}
        show(to_json({**where, **_numbers(times, prediction, assumptions)}))
        return
    card = settings.train.gpu.name if settings.train.gpu else ""
    settings_in_words = f"{settings.train.precision}, compile {'on' if settings.train.compile else 'off'}"
    show(f"{config} on {times.device}, torch {torch.__version__}, {settings_in_words}, {n_steps} steps")
    for line in (*_summary(times, prediction, card), *_parts(times), *_assumptions(assumptions)):
        show(line)


def _numbers(times: StepTimes, prediction: Prediction, assumptions: Implied) -> dict[str, object]:
    return {
        "device": times.device,
        "n_steps": times.n_steps,
        "step_ms": 1000 * times.seconds,
        "launched_step_ms": 1000 * times.launched_seconds,
        "audio_seconds_per_second": times.throughput,
        "parts_ms": {name: 1000 * seconds for name, seconds in times.parts.items()},
        "host_wait_ms": None if times.host_wait_seconds is None else 1000 * times.host_wait_seconds,
        "peak_bytes": times.peak_bytes,
        "reserved_bytes": times.reserved_bytes,
        "predicted": {
            "step_ms": None if prediction.seconds is None else 1000 * prediction.seconds,
            "audio_seconds_per_second": prediction.throughput,
            "peak_bytes": prediction.peak_bytes,
            "card_bytes": prediction.card_bytes,
        },
        "assumptions": {
            name: {"assumed": assumed, "measured": measured} for name, (assumed, measured) in assumptions.items()
        },
    }


def _summary(times: StepTimes, prediction: Prediction, card: str) -> list[str]:
    """`card`: of the prediction, empty without one."""
    peak, seconds = times.peak_bytes, prediction.seconds
    rows = [
        ("step, ms", 1000 * times.seconds, None if seconds is None else 1000 * seconds),
        ("seconds of audio a second", times.throughput, prediction.throughput),
        ("peak memory, GB", None if peak is None else peak / 1e9, prediction.peak_bytes / 1e9),
    ]
    lines = [f"{'':26}{'measured':>14}{'predicted':>14}{f'  for {card}' if card else ''}"]
    for name, measured, predicted in rows:
        left = "not measured" if measured is None else f"{measured:.4g}"
        right = "needs --gpu" if predicted is None else f"{predicted:.4g}"
        is_comparable = peak is not None and measured is not None and predicted is not None
        off = f"{measured / predicted - 1:+14.0%}" if is_comparable and measured and predicted else ""
        lines.append(f"{name:26}{left:>14}{right:>14}{off}")
    return lines


def _parts(times: StepTimes) -> list[str]:
    total = times.launched_seconds
    parts = {**times.parts, "between the parts": max(0.0, total - sum(times.parts.values()))}
    lines = [f"{name:26}{1000 * seconds:11.3f} ms{seconds / total:14.1%}" for name, seconds in parts.items()]
    if times.seconds != total:
        lines.insert(0, f"kernel by kernel, a step takes {1000 * total:.4g} ms:")
    if times.host_wait_seconds is not None:
        lines.append(f"the host waits {1000 * times.host_wait_seconds:.3f} ms for the end of a step it has launched")
    return lines


def _assumptions(assumptions: Implied) -> list[str]:
    lines = []
    for name, (assumed, measured) in assumptions.items():
        verdict = "holds" if abs(measured / assumed - 1) <= _HOLDS else "is off"
        condition = ", if the card's other speeds hold" if name in _SPEEDS else ""
        lines.append(
            f"the plan's {name.replace('_', ' ')} {verdict}: {assumed:.3g} assumed, {measured:.3g} measured{condition}"
        )
    return lines
