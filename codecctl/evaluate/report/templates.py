"""The report's templates, and the words in them that the terminal and JSON have, too."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from codecctl.evaluate.metrics.metric import Metric
from codecctl.evaluate.metrics.table import METRIC_GROUPS, METRICS
from codecctl.evaluate.systems import label_of
from codecctl.text import counted, number, printable

if TYPE_CHECKING:
    from codecctl.evaluate.result import Group, System, Validation
    from codecctl.evaluate.verdict import Requirement, Verdict


def in_sentences(result: Validation, verdict: Verdict) -> list[str]:
    """The verdict, the most important first."""
    lines = str(_WORDS.verdict(result, verdict))  # str: a page escapes it
    return [line for line in lines.splitlines() if line]


def in_sentence(requirement: Requirement) -> str:
    """What was required, and what is."""
    return str(_WORDS.requirement(requirement))


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:.2f} h"


def measured(items: Iterable[System | Group], group: Iterable[Metric]) -> list[Metric]:
    """The metrics of a group that one of the items has."""
    return [metric for metric in group if any(metric.name in item.metrics for item in items)]


TEMPLATES = Environment(
    loader=PackageLoader("codecctl.evaluate.report", "."),
    autoescape=select_autoescape(["html.j2", "svg.j2"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.globals |= {"metrics": METRICS, "metric_groups": METRIC_GROUPS}
TEMPLATES.filters |= {
    "counted": counted,
    "duration": duration,
    "label": label_of,
    "measured": measured,
    "number": number,
    "visible": printable,
}
TEMPLATES.tests["nan"] = math.isnan
_WORDS: Any = TEMPLATES.get_template("words.txt.j2").module  # its macros
