"""A plan of a run in words."""

from __future__ import annotations

from codecctl.cli.console import size
from codecctl.train.plan import ASSUMPTIONS, Plan, Prediction
from codecctl.train.setup import n_files


def describe(plan: Plan) -> dict[str, str]:
    """A line for each subject."""
    return {
        **_size(plan),
        **_step(plan),
        **_memory(plan),
        **_fit(plan),
        "epoch": f"{_rough(plan.steps_per_epoch)} steps" if plan.steps_per_epoch else f"unknown: {plan.no_data}",
        "adversaries": _adversaries(plan),
        "audio": _audio(plan),
        **_time(plan),
        "disk": f"{size(plan.disk_bytes)}: {n_files(plan.config.train)} checkpoints of "
        f"{size(plan.costs.checkpoint_bytes)}, the newest {plan.config.train.keep_checkpoints}, the best, and one "
        "being written",
    }


def _size(plan: Plan) -> dict[str, str]:
    counts = {name: f"{n / 1e6:.3g} M" for name, n in plan.costs.n_parameters.items()}
    lines = {"parameters": ", ".join(f"{name} {count}" for name, count in counts.items() if name != "teacher")}
    return {**lines, "teacher": f"{counts['teacher']}, frozen; {plan.costs.teacher}"} if plan.costs.teacher else lines


def _step(plan: Plan) -> dict[str, str]:
    settings, data = plan.config.train, plan.config.data
    batches = f"{settings.accumulate} x " if settings.accumulate > 1 else ""
    cards = f" on each of {plan.n_cards} cards" if plan.n_cards > 1 else ""
    work = {"with discriminators": plan.step, "without": plan.early_step} if plan.early_step else {"": plan.step}
    words = [f"{_work(step)} {stage}".rstrip() for stage, step in work.items() if step]
    return {
        "step": f"{batches}{settings.batch_size} crops of {data.crop_seconds:g} s{cards}, {settings.precision}",
        "work of a step": "; ".join(words),
    }


def _work(step: Prediction) -> str:
    moved = f"{size(step.moved_bytes)} moved ({size(step.moved_bytes / step.audio_seconds)} per second of audio)"
    return f"{step.operations / 1e12:.3g} TFLOP, {moved}"


def _memory(plan: Plan) -> dict[str, str]:
    compiled = "; train.compile will need less, and is left out here" if plan.config.train.compile else ""
    lasting = ", ".join(f"{name} {size(n)}" for name, n in plan.costs.lasting.items() if n)
    total, gradients = sum(plan.costs.lasting.values()), plan.costs.late.gradients
    return {
        "memory": f"{size(plan.step.peak_bytes)} at the peak of a step{compiled}",
        "of it lasting": f"{size(total)}: {lasting}; gradients {size(gradients)}",
    }


def _fit(plan: Plan) -> dict[str, str]:
    """Whether the batch fits, and if not, what does."""
    card, largest = plan.card, plan.largest_batch(plan.config.train.accumulate)
    if card is None:
        return {}
    room = (
        f"{size(plan.step.card_bytes)} of {card.memory_gb:g} GB ({card.name}), including "
        f"{size(ASSUMPTIONS.context_bytes)} for the driver and {ASSUMPTIONS.fragmentation - 1:.0%} for fragmentation"
    )
    if plan.fits:
        return {"fits": f"yes: {room}; the largest batch that fits is {largest}"}
    if not largest:
        return {"fits": f"no: {room}; not even one crop fits: lower data.crop_seconds"}
    ways = []
    if split := plan.split_batch():
        ways.append(f"--set train.batch_size={split[0]} --set train.accumulate={split[1]}, the same step in parts")
    if plan.shorter_crops:
        ways.append(f"--set data.crop_seconds={plan.shorter_crops:g}")
    return {"fits": f"no: {room}; the largest batch that fits is {largest}", "instead": "; or ".join(ways)}


def _adversaries(plan: Plan) -> str:
    settings = plan.config.train.adversarial
    if plan.early_step is None:
        return "none in this config"
    where = f"epoch {settings.start_epoch}"
    if plan.adversarial_step is None:
        return f"used from {where} on; its step is unknown without the data"
    alone = min(settings.warmup_steps, plan.adversarial_step)
    if plan.adversarial_step >= plan.n_steps:
        return f"never used: {where} is after step {plan.n_steps:,}"
    learning = f"the discriminators learn from step {plan.adversarial_step - alone:,} on"
    return f"used from step {plan.adversarial_step:,} on ({where}); {learning}"


def _audio(plan: Plan) -> str:
    said = f"{_rough(plan.audio_hours)} h"
    if plan.early_step is None:
        return said
    late, taken = _rough(plan.adversarial_audio_hours), _rough(plan.discriminator_audio_hours)
    return f"{said}, {late} h of it with adversaries{_all_late(plan)}, whose discriminators take {taken} h"


def _all_late(plan: Plan) -> str:
    unknown = plan.early_step is not None and plan.adversarial_step is None
    return " (taken to start with the run)" if unknown else ""


def _time(plan: Plan) -> dict[str, str]:
    card, hours, cost, step = plan.card, plan.hours, plan.cost_usd, plan.step
    if card is None:
        return {"time and cost": "unknown without --gpu"}
    if hours is None or cost is None or step.seconds_multiplying is None or step.seconds_moving is None:
        return {"time and cost": "unknown: its profile lacks train.gpu.peak_tflops or bandwidth_gb_per_second"}
    cards = f" of {plan.n_cards} cards" if plan.n_cards > 1 else ""
    speed = f"{step.throughput:,.0f} seconds of audio a second"
    if plan.early_step is not None:
        speed += f" with discriminators, {plan.early_step.throughput:,.0f} without"
    return {
        "time and cost": f"about {_rough(hours)} h{cards} and {_rough(cost)} USD at {card.price_per_hour_usd:g} USD/h: "
        f"{plan.n_steps:,} steps of {step.seconds:.2f} s{_all_late(plan)}",
        "throughput": f"{speed}, on each card" if plan.n_cards > 1 else speed,
        "assumptions": f"{ASSUMPTIONS.source}: {step.seconds_multiplying:.2f} s of arithmetic at "
        f"{ASSUMPTIONS.share_of_peak:.0%} of "
        f"{card.peak_tflops:g} TFLOPS, then {step.seconds_moving:.2f} s of memory traffic at "
        f"{ASSUMPTIONS.share_of_bandwidth:.0%} of {card.bandwidth_gb_per_second:g} GB/s, then "
        f"{step.seconds_starting:.2f} s between kernels"
        + ("" if step.is_recorded else f", meanwhile {step.seconds_launching:.2f} s of the host"),
    }


def _rough(value: float) -> str:
    """A number of which the first two digits matter."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
