"""Lines of a stream of bytes, by the block; a long one is cut into short ones that mean the same."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterable

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.judging import JSON_SPACE, Record, judge

BLOCK_SIZE = 1024**2
"""Bytes of lines that are handed out at once, if a line is not longer."""
LONG_LINE = 2 * 1024**2
"""Bytes up to which a line is handed out whole. Once parsed, some JSON takes 25 times its length."""
WINDOW = 1024**2
"""Bytes of a long line that are parsed at once: the most for one user, and for all that is not a user."""
_MARK = secrets.token_hex(16)
"""Stands for the users of a long line; nobody can write a record that has it, too."""
_ESCAPE = re.compile(rb"\\.", re.DOTALL)


class Lines:
    """
    Hands out lines from pieces that are cut anywhere. Lines end with a line feed, the last one perhaps not.

    :param pieces: the bytes, in pieces of any size
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = bytearray()
        self.number = 1
        """The number of the line that comes next."""
        self.offset = 0
        """How many bytes were handed out."""
        self.has_end = True
        """Whether what was handed out last ends with a line feed."""

    def begin_with(self, mark: bytes) -> bool:
        """
        Return whether the next bytes are these.

        :param mark: the bytes
        """
        return self.peek(len(mark)) == mark

    def is_at_end(self) -> bool:
        """Return whether there are no more bytes."""
        return not self.peek(1)

    def take_block(self) -> bytes:
        """Take whole lines, :data:`BLOCK_SIZE` at most or one line; nothing when the next one is long."""
        block = self.peek(BLOCK_SIZE)
        end = block.rfind(b"\n") + 1
        if not end:
            block = self.peek(LONG_LINE + 1)
            end = block.find(b"\n") + 1 or (len(block) if len(block) <= LONG_LINE else 0)
        return self.take(end)

    def peek(self, size: int) -> bytes:
        """
        Return the next bytes without taking them.

        :param size: how many; fewer when there are no more
        """
        while len(self._buffer) < size and (piece := next(self._pieces, b"")):
            self._buffer += piece
        return bytes(memoryview(self._buffer)[:size])

    def take(self, size: int) -> bytes:
        """
        Take bytes that were returned before.

        :param size: how many
        """
        data = bytes(memoryview(self._buffer)[:size])
        # A bytearray gives bytes at its beginning away without moving the others.
        del self._buffer[:size]
        self.number += data.count(b"\n")
        self.offset += len(data)
        self.has_end = data.endswith(b"\n")
        return data

    def skip_line(self) -> None:
        """Skip the rest of a line, however long it is."""
        while window := self.peek(WINDOW):
            self.take(window.find(b"\n") + 1 or len(window))
            if self.has_end:
                return


class _UncutError(Exception):
    """A long line cannot be cut; the message says why."""


def judge_long_line(kind: BatchJobKind, lines: Lines, take_piece: Callable[[bytes], str | None]) -> Record:
    """
    Take a long line, and return what it holds but for its results.

    Only its list of users may be long. It is cut at commas between users, and each piece becomes the list of
    a short record. What is around the list is judged at last, with a mark in the list's place. So every byte
    is judged, and a wrong cut can refuse a line, but accept nothing that is wrong.

    :param kind: the kind of job that wrote it
    :param lines: where the line comes next
    :param take_piece: takes a short record, with a piece of the list, and returns what is wrong with it
    """
    try:
        head, name = _take_head(kind, lines)
        problem = _take_list(kind, lines, name, len(head), take_piece)
        tail = _take_line_end(lines, WINDOW - len(head))
    except _UncutError as error:
        lines.skip_line()
        return Record(error=str(error), is_json=False)
    record = judge(kind, b'%s"%s"]%s' % (head, _MARK.encode(), tail))
    if record.error is None and list(record.results) != [_MARK]:
        problem = "it repeats its output, or its list of users"
    return record._replace(error=problem or record.error)


def _take_head(kind: BatchJobKind, lines: Lines) -> tuple[bytes, bytes]:
    """Take what is before the users; return it, and the name of the list."""
    names = b"|".join(each.encode() for each in kind.result_members)
    match = re.search(rb'"(%s)"\s*:\s*\[' % names, lines.peek(WINDOW).partition(b"\n")[0])
    if match is None or kind.number_members:  # two lists would have to be cut alike
        raise _UncutError(
            f"longer than {LONG_LINE} bytes, and more than {WINDOW} of them are outside its list of users"
        )
    return lines.take(match.end()), match[1]


def _take_list(
    kind: BatchJobKind, lines: Lines, name: bytes, size: int, take_piece: Callable[[bytes], str | None]
) -> str | None:
    before = b'{"input":{"%s":""},"output":{"%s":[' % (kind.input_records[0][0][0].encode(), name)
    begin = lines.offset - size
    problem = None
    is_first = True
    while True:
        window = lines.peek(WINDOW).partition(b"\n")[0]
        place, is_end = _find_cut(window)
        if place < 0:
            raise _UncutError(f"its list of users does not end, or one of them has more than {WINDOW} bytes")
        piece = window[:place]
        if not piece.strip(JSON_SPACE) and not (is_first and is_end):
            piece = b","  # as wrong as it is there
        wrong = None if problem else take_piece(before + piece + b"]}}\n")
        if wrong:
            problem = (
                f"in the part of its list that begins at byte {lines.offset - begin} of the line: {wrong}"
            )
        lines.take(place + 1)
        if is_end:
            return problem
        is_first = False


def _find_cut(text: bytes) -> tuple[int, bool]:
    """Return where the list ends, or else its last comma between users; and whether it is the end."""
    plain = _ESCAPE.sub(b"__", text) if b"\\" in text else text
    # What has an even number of quotes before it is outside of text.
    place, quotes = -1, 0
    while (following := plain.find(b"]", place + 1)) >= 0:
        quotes += plain.count(b'"', max(place, 0), following)
        place = following
        if quotes % 2 == 0:
            return place, True
    place = plain.rfind(b",")
    quotes = plain.count(b'"', 0, max(place, 0))
    while place >= 0 and quotes % 2:
        previous = plain.rfind(b",", 0, place)
        quotes -= plain.count(b'"', max(previous, 0), place)
        place = previous
    return place, False


def _take_line_end(lines: Lines, size: int) -> bytes:
    end, line_feed, _ = lines.peek(size).partition(b"\n")
    if not line_feed and len(end) == size:
        raise _UncutError(f"more than {WINDOW} of its bytes are outside its list of users")
    return lines.take(len(end + line_feed))
