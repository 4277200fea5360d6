"""Tables of the report: cells of text, numbers and means, sortable by what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from codecctl.evaluate.belief import Mean


def table(caption: str, heads: Sequence[str], rows: Sequence[tuple[bool, Sequence[str]]]) -> str:
    """Cells are `<td>` elements; a row that is marked is the codec's."""
    head = "".join(f'<th scope="col"><button type="button">{escape(text)}</button></th>' for text in heads)
    body = "".join(f"<tr{' class=ours' if marked else ''}>{''.join(cells)}</tr>" for marked, cells in rows)
    region = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
    return (
        f"{region}<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def cell(text: str) -> str:
    return f"<td>{escape(text)}</td>"


def number(value: float | None, digits: int) -> str:
    if value is None:
        return '<td data-value=""></td>'
    return f'<td data-value="{"" if math.isnan(value) else value}">{number_text(value, digits)}</td>'


def mean_cell(mean: Mean | None, digits: int) -> str:
    if mean is None:
        return '<td data-value=""></td>'
    edges = ", ".join(number_text(edge, digits) for edge in (mean.low, mean.high))
    interval = "" if math.isnan(mean.low) else f" <small>[{edges}]</small>"
    value = "" if math.isnan(mean.value) else mean.value
    return f'<td data-value="{value}">{number_text(mean.value, digits)}{interval}</td>'


def number_text(value: float, digits: int) -> str:
    return "undefined" if math.isnan(value) else f"{value:z.{digits}f}"  # z: no minus before zero
