"""JSON as the standard has it, parsed by Python's own parser, whose word is final here."""

from __future__ import annotations

import json
from typing import Any, NoReturn


def load_strictly(text: str) -> Any:
    """
    Return what ``json.loads`` returns, but refuse ``NaN`` and ``Infinity``, which are not JSON.

    :param text: the JSON text
    :raises ValueError: when it is not JSON
    """
    return _DECODER.decode(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
