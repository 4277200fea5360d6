"""Fills the templates and writes the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from codecctl.evaluate.baselines import label_of
from codecctl.evaluate.rendering import Renderer
from codecctl.evaluate.report import context
from codecctl.evaluate.report.listening import make_examples, make_worst
from codecctl.evaluate.result import Validation
from codecctl.evaluate.utterances import ReferenceUtterance
from codecctl.evaluate.verdict import Requirement
from codecctl.files import replacing
from codecctl.text import printable

PAGE_NAME = "index.html"


@dataclass(frozen=True)
class ModelCard:
    """The checkpoint."""

    name: str
    fingerprint: str
    step: int  # updates of its training


def write_report(
    folder: Path,
    result: Validation,
    requirements: Sequence[Requirement],
    verdict: Sequence[str],
    card: ModelCard,
    renderer: Renderer,
    utterances: Sequence[ReferenceUtterance],
) -> Path:
    """Write `folder`/index.html atomically; returns its path. The worst utterances are rendered again to be played."""
    measured = [utterance for utterance in utterances if utterance.id not in result.failed]
    examples = make_examples(renderer, result, measured)
    worst = make_worst(renderer, result, measured, examples)
    codec = renderer.codec
    sections = {
        "summary": ("Summary and verdict", context.summary(result, requirements, verdict)),
        "systems": ("Beside other systems", context.systems(result)),
        "groups": ("By dataset, language and speaker", context.groups(result)),
        "against": ("Against the other checkpoint", context.comparison(result)),
        "listen": ("Listen", {"items": examples}),
        "blind-test": ("Blind test (A/B/X)", context.blind_test(examples)),
        "curve": ("Curve over codebooks", context.curve(result)),
        "codebooks": ("Codebooks", context.codebooks(result)),
        "semantics": ("What the first codebook carries", context.semantics(result)),
        "worst": ("Worst recordings", context.worst(result, examples, worst)),
        "model": ("Model card", context.model(codec, card.name, card.fingerprint, card.step)),
        "method": ("How it was measured, and what was not", context.method(result)),
    }
    shown = {name: section for name, section in sections.items() if any(section[1].values())}
    template = _environment(codec.n_codebooks).get_template("page.html.j2")
    with replacing(folder / PAGE_NAME) as partial:
        partial.write_text(
            template.render(card=card, result=result, sections=shown, style=_read("page.css"), script=_read("page.js")),
            encoding="utf-8",
        )
    return folder / PAGE_NAME


def _environment(n_codebooks: int) -> Environment:
    environment = Environment(
        loader=PackageLoader("codecctl.evaluate.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "duration": context.duration,
        "label": lambda system: label_of(system, n_codebooks),
        "number": context.number_text,
        "visible": printable,
    }
    return environment


def _read(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
