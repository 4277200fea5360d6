"""The names of what is measured: the codec, parts of it, and what it is compared with."""

from __future__ import annotations

CODEC, UNQUANTIZED, BAND_LIMITED, AGAINST = "codec", "unquantized", "lowpass_4khz", "against"
ORIGINAL = "original"  # the reference where it is scored like a system
FEWER = "n_quantizers_"  # and a number: the codec with so many codebooks, the first ones
LATER = "codebooks_2_to_"  # and a number: the codec with the codebooks from the second to this one
_OPUS = "opus_"  # and kbps


def label_of(system: str) -> str:
    """A system's name for people."""
    if system.startswith(LATER):
        return f"codec, codebooks 2 to {system.removeprefix(LATER)} only"
    if system.startswith(FEWER):
        n = system.removeprefix(FEWER)
        return f"codec, {n} codebook" + "s" * (n != "1")
    if is_opus(system):
        return f"Opus {system.removeprefix(_OPUS)} kbps"
    return {
        CODEC: "codec",
        UNQUANTIZED: "codec, quantizer off",
        BAND_LIMITED: "original below 4 kHz",
        AGAINST: "the other checkpoint",
        ORIGINAL: "original",
    }[system]


def opus_name(kbps: float) -> str:
    return f"{_OPUS}{kbps:g}"


def is_opus(system: str) -> bool:
    return system.startswith(_OPUS)


def is_part(system: str) -> bool:
    """Whether a system is a part of the codec, and so has its delay."""
    return system == UNQUANTIZED or system.startswith((FEWER, LATER))
