"""JSON that comes in quantities, parsed fast: lists of text without a Python object for each element.

What is parsed here is what ``json.loads`` takes for JSON, and comes out the same. The standard library judges
what is doubtful, and its words about what is wrong are the ones that users know.
"""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_personalize_segments.output.strict_json import load_strictly

_JSON_SPACE = b" \t\r"
_decode = msgspec.json.Decoder().decode


def loads(text: str) -> Any:
    """
    Return what ``json.loads`` returns, but refuse ``NaN`` and ``Infinity``, which are not JSON.

    :param text: the JSON text
    :raises ValueError: when it is not JSON
    """
    try:
        return _decode(text)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return load_strictly(text)


def load_texts(text: bytes) -> pa.StringArray | None:
    """
    Return what a JSON array of text holds.

    :param text: what is between its brackets
    :returns: the elements. ``None`` when they are not all text without escapes, with one and the same white
        space after each comma: then it may be JSON, or not
    """
    text = text.strip(_JSON_SPACE)
    if len(text) < 2 or text[:1] != b'"' or text[-1:] != b'"' or b"\\" in text:
        return None
    content = text[1:-1]
    if not content:
        return pa.array([""], pa.string())
    data = pa.py_buffer(content)
    if pc.min(pa.Array.from_buffers(pa.uint8(), len(content), [None, data])).as_py() < 0x20:
        return None  # JSON has control characters as escapes only
    offsets = pa.py_buffer(array("i", (0, len(content))))
    whole = pa.Array.from_buffers(pa.string(), 1, [None, offsets, data])
    try:
        whole.validate(full=True)  # UTF-8
    except pa.ArrowInvalid:
        return None
    texts: pa.StringArray = pc.split_pattern(whole, _find_separator(content)).values
    # With no quote but those of the separators, nothing is left that could be wrong.
    return texts if content.count(b'"') == 2 * (len(texts) - 1) else None


def _find_separator(content: bytes) -> str:
    """Return what is between the first two elements, from quote to quote."""
    end = content.find(b'"') + 1
    begin = content.find(b'"', end)
    between = content[end:begin] if end and begin > 0 else b","
    return f'"{between.decode()}"' if between.strip(_JSON_SPACE) == b"," else '","'
