"""Records as they are handed on: one by one, a long one in parts, or many at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class RecordPart(NamedTuple):
    """
    A record, or a part of one that is long.

    A record of usual length is one part. A long one is several, with the same ``line``; the last has
    ``is_last``. When the last has a ``problem``, the line is no record, and what the parts before it held is
    void.

    :param line: the line's number, from 1; blank lines count
    :param offset: where the line begins, in bytes from the beginning of the object
    :param members: the record without its list of users. In a part that is not the last, the members that
        come before the list, in the same dict each time; none turns out different in the last part. Empty
        when there is a problem
    :param list_name: the name of the member of ``output`` that was moved into ``values``: the first of
        :data:`~.records.LIST_NAMES` that is a list; ``None`` when the record has none
    :param values: elements of that list, as they are: text, if the record is as documented. A list, or what
        ``load_list`` made of them
    :param start: how many elements the parts before held
    :param is_last: whether the record ends with this part
    :param problem: why the line is no valid record, or ``None``
    :param is_cut_off: whether the object ends here, without a line feed, and there is a problem: as a rule it
        ends in the middle of a record
    """

    line: int
    offset: int
    members: dict[str, Any]
    list_name: str | None = None
    values: Sequence[Any] = []  # read_records never changes a default
    start: int = 0
    is_last: bool = True
    problem: str | None = None
    is_cut_off: bool = False


class RecordBlock(NamedTuple):
    """
    Records that were parsed at once.

    :param line: the first line's number, from 1
    :param offset: where it begins, in bytes from the beginning of the object
    :param values: what ``load_block`` made of them
    """

    line: int
    offset: int
    values: Any
