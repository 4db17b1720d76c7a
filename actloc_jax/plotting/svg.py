"""Timelines as inline SVG: small, sharp and with a tooltip on every bar, for reports that hold hundreds of videos."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from actloc_jax.plotting.colours import class_colours, hex_code, ink_on
from actloc_jax.plotting.timeline import (
    Row,
    check_rows,
    clock,
    clock_unit,
    duration_sec,
    known_rate,
    label_runs,
    time_ticks,
)

_NAMES_WIDTH, _BARS_WIDTH = 120, 1000
_BAR_HEIGHT, _PITCH = 20, 25
_CURVE_HEIGHT = 36
_AXIS_HEIGHT = 30
_FONT = 11
_CURVE_POINTS = 500


def timeline_svg(
    rows: Sequence[Row], class_names: Sequence[str], *, frame_rate: float, confidence: np.ndarray | None = None
) -> str:
    """The rows as an `<svg>` element that takes the colour of its surrounding text.

    Args:
        rows: at least one, top to bottom; notes are not drawn.
        class_names: by class index.
        frame_rate: label frames per second; 0 if unknown (times are then counted in frames).
        confidence: float [time] in 0..1, drawn below the rows.

    Raises:
        ValueError: no rows, or a label without a class name.
    """
    check_rows(rows, class_names)
    duration = duration_sec(rows, frame_rate)
    colours = class_colours(class_names)
    parts = [_row(row, _PITCH * position, class_names, colours, frame_rate, duration)
             for position, row in enumerate(rows)]  # fmt: skip
    bottom = _PITCH * len(rows)
    if confidence is not None and len(confidence):
        parts.append(_curve(np.asarray(confidence, np.float64), bottom, known_rate(frame_rate), duration))
        bottom += _CURVE_HEIGHT
    parts.append(_axis(bottom, duration, in_frames=frame_rate <= 0))
    return (
        f'<svg class="timeline" viewBox="0 0 {_NAMES_WIDTH + _BARS_WIDTH + 15} {bottom + _AXIS_HEIGHT}" '
        f'font-size="{_FONT}" fill="currentColor" role="img">{"".join(parts)}</svg>'
    )


def _row(
    row: Row, top: float, class_names: Sequence[str], colours: np.ndarray, frame_rate: float, duration: float
) -> str:
    baseline = top + _BAR_HEIGHT / 2 + 0.35 * _FONT
    parts = [f'<text x="{_NAMES_WIDTH - 8}" y="{baseline:g}" text-anchor="end">{html.escape(row.name)}</text>']
    borders, labels = label_runs(row.labels)
    borders = borders / known_rate(frame_rate)
    for start, end, label in zip(borders[:-1], borders[1:], labels, strict=True):
        if label < 0:
            continue
        name = html.escape(class_names[label])
        span = f"{start:.2f} to {end:.2f} s" if frame_rate > 0 else f"frames {start:.0f} to {end - 1:.0f}"
        x, width = _x(start, duration), _BARS_WIDTH * (end - start) / duration
        parts.append(
            f'<rect x="{x:.2f}" y="{top:g}" width="{width:.2f}" height="{_BAR_HEIGHT}" '
            f'fill="{hex_code(colours[label])}">'
            f"<title>{name}  {span}</title></rect>"
        )
        if width > 0.62 * _FONT * len(class_names[label]):
            parts.append(
                f'<text x="{x + width / 2:.2f}" y="{baseline:g}" text-anchor="middle" fill="{ink_on(colours[label])}" '
                f'pointer-events="none">{name}</text>'
            )
    return "".join(parts)


def _curve(confidence: np.ndarray, top: float, frame_rate: float, duration: float) -> str:
    """Confidence as a line, each point the mean of the frames it stands for."""
    pieces = np.array_split(confidence, min(len(confidence), _CURVE_POINTS))
    ends = np.cumsum([len(piece) for piece in pieces])
    height = _CURVE_HEIGHT - 8
    times = [(end - len(piece) / 2) / frame_rate for piece, end in zip(pieces, ends, strict=True)]
    levels = [top + height * (1 - np.clip(piece.mean(), 0, 1)) for piece in pieces]
    points = " ".join(f"{_x(time, duration):.1f},{level:.1f}" for time, level in zip(times, levels, strict=True))
    guides = "".join(
        f'<line x1="{_NAMES_WIDTH}" x2="{_NAMES_WIDTH + _BARS_WIDTH}" y1="{y:g}" y2="{y:g}" stroke="currentColor" '
        f'stroke-opacity="0.25" stroke-width="0.6"/>'
        for y in (top, top + height)
    )
    name = f'<text x="{_NAMES_WIDTH - 8}" y="{top + height / 2 + 4:g}" text-anchor="end">confidence</text>'
    line = f'<polyline points="{points}" fill="none" stroke="#3b82c4" stroke-width="1.3"/>'
    return guides + name + line


def _axis(top: float, duration: float, *, in_frames: bool) -> str:
    ticks = "".join(
        f'<line x1="{_x(tick, duration):.2f}" x2="{_x(tick, duration):.2f}" y1="{top}" y2="{top + 4}" '
        f'stroke="currentColor"/><text x="{_x(tick, duration):.2f}" y="{top + 16}" text-anchor="middle">'
        f"{f'{tick:.0f}' if in_frames else clock(tick, duration)}</text>"
        for tick in time_ticks(duration)
    )
    line = (
        f'<line x1="{_NAMES_WIDTH}" x2="{_NAMES_WIDTH + _BARS_WIDTH}" y1="{top}" y2="{top}" '
        f'stroke="currentColor" stroke-width="0.8"/>'
    )
    quantity = "frame" if in_frames else f"time ({clock_unit(duration)})"
    unit = f'<text x="{_NAMES_WIDTH - 8}" y="{top + 16}" text-anchor="end">{quantity}</text>'
    return line + ticks + unit


def _x(seconds: float, duration: float) -> float:
    return _NAMES_WIDTH + _BARS_WIDTH * seconds / duration
