"""A picture of segments: how many users each has, and how many of them are in the others, too."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from xml.etree import ElementTree

MOST_SEGMENTS = 20
"""More segments than these do not fit; the picture says how many it leaves out."""
MOST_CHARACTERS = 24
"""A longer name is cut; the whole is there when the mouse rests on it."""
_MARGIN, _HEAD, _ROW, _CELL = 20, 62, 30, 44
_NAMES, _BARS, _SIZES = 232, 180, 92
_FONT = "system-ui, 'Segoe UI', 'Liberation Sans', sans-serif"
# The picture has a background of its own, so it reads alike on a light page and on a dark one.
_PAPER, _FRAME, _INK, _FAINT, _BAR, _EMPTY = "#ffffff", "#d0d7de", "#1f2328", "#59636e", "#2f6f9f", "#eef1f4"


def draw_segments(segments: Mapping[str, AbstractSet[str]]) -> str:
    """
    Return an SVG picture: a row for each segment with its name, a bar for its size, and its overlaps.

    The number in a cell is the share of the row's users, in percent, that the column's segment has, too.

    :param segments: the users of each segment, by the segment's name
    """
    names = list(segments)[:MOST_SEGMENTS]
    left_out = len(segments) - len(names)
    cells = _MARGIN + _NAMES + _BARS + _SIZES
    width = cells + max(5, len(names)) * _CELL + _MARGIN
    height = _HEAD + max(1, len(names)) * _ROW + (_ROW if left_out else 0) + _MARGIN
    picture = ElementTree.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "font-family": _FONT,
            "font-size": "14",
            "fill": _INK,
        },
    )
    ElementTree.SubElement(picture, "title").text = "Segments, their users, and their overlaps"
    _rectangle(picture, (0.5, 0.5, width - 1, height - 1), _PAPER, stroke=_FRAME, rx="6")
    _text(picture, _MARGIN, 26, "segment", fill=_FAINT)
    _text(picture, _MARGIN + _NAMES, 26, "users", fill=_FAINT)
    _text(picture, cells, 26, "% of them who are also in", fill=_FAINT)
    for column in range(len(names)):
        _text(picture, cells + (column + 0.5) * _CELL, 50, str(column + 1), **_CENTRED, fill=_FAINT)
    most = max((len(segments[name]) for name in names), default=0)
    for row, name in enumerate(names):
        top = _HEAD + row * _ROW
        base = top + 20
        size = len(segments[name])
        _text(picture, _MARGIN + 16, base, str(row + 1), fill=_FAINT, **{"text-anchor": "end"})
        _name(picture, _MARGIN + 26, base, name)
        bar = max(1, round(_BARS * size / most)) if size else 0
        _rectangle(picture, (_MARGIN + _NAMES, top + 6, bar, _ROW - 12), _BAR, rx="2")
        _text(picture, _MARGIN + _NAMES + bar + 8, base, f"{size:,}")
        for column, other in enumerate(names):
            _cell(
                picture,
                cells + column * _CELL,
                top,
                segments[name],
                None if other == name else segments[other],
            )
    if not names:
        _text(picture, _MARGIN, _HEAD + 20, "There are no segments.")
    if left_out:
        base = _HEAD + len(names) * _ROW + 20
        _text(picture, _MARGIN, base, f"{left_out:,} more segments are not in the picture.", fill=_FAINT)
    ElementTree.indent(picture)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


_CENTRED = {"text-anchor": "middle"}


def _cell(
    picture: ElementTree.Element,
    left: float,
    top: float,
    users: AbstractSet[str],
    others: AbstractSet[str] | None,
) -> None:
    """Draw an overlap; ``None`` is the segment itself."""
    place = (left + 1, top + 1, _CELL - 2, _ROW - 2)
    if others is None or not users:
        _rectangle(picture, place, _EMPTY)
        return
    share = len(users & others) / len(users)
    # Never so dark that the number in it is hard to read.
    _rectangle(picture, place, _BAR, **{"fill-opacity": f"{0.05 + 0.45 * share:.2f}"})
    _text(picture, left + _CELL / 2, top + 20, _percent(share), **_CENTRED)


def _percent(share: float) -> str:
    """Return a share in percent; 0 and 100 mean none and all, not nearly so."""
    if 0 < share < 0.005:
        return "<1"
    if 0.995 <= share < 1:
        return ">99"
    return f"{100 * share:.0f}"


def _name(picture: ElementTree.Element, x: float, y: float, name: str) -> None:
    # XML has no way to write some characters.
    clean = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in name)
    is_long = len(clean) > MOST_CHARACTERS
    shown = clean[: MOST_CHARACTERS - 1] + "\N{HORIZONTAL ELLIPSIS}" if is_long else clean
    # Wide letters end where the bars begin.
    place = {"x": f"{x:g}", "y": f"{y - 20:g}", "width": f"{_NAMES - 34}", "height": f"{_ROW}"}
    text = _text(ElementTree.SubElement(picture, "svg", place), 0, 20, shown)
    if is_long:
        ElementTree.SubElement(text, "title").text = clean


def _text(
    picture: ElementTree.Element, x: float, y: float, content: str, **attributes: str
) -> ElementTree.Element:
    text = ElementTree.SubElement(picture, "text", {"x": f"{x:g}", "y": f"{y:g}", **attributes})
    text.text = content
    return text


def _rectangle(
    picture: ElementTree.Element, place: tuple[float, float, float, float], fill: str, **attributes: str
) -> None:
    sizes = dict(zip(("x", "y", "width", "height"), (f"{each:g}" for each in place), strict=True))
    ElementTree.SubElement(picture, "rect", {**sizes, "fill": fill, **attributes})
