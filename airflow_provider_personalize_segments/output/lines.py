"""Lines of a stream of bytes, however long they are, in a buffer that holds little more than is asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Window(NamedTuple):
    """
    The next bytes of a line.

    :param data: the bytes, without the line's end
    :param is_rest: whether the line has no more of them
    """

    data: bytearray
    is_rest: bool


class LineBuffer:
    """
    Hands out lines from pieces that are cut anywhere. Lines end with a line feed, the last one perhaps not.

    It holds the most bytes that were asked for at once, and one piece.

    :param pieces: the bytes, in pieces of any size
    """

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._buffer = bytearray()
        self._position = 0
        self._is_exhausted = False
        self.offset = 0
        """How many bytes were taken or skipped."""

    def begins_with(self, mark: bytes) -> bool:
        """
        Return whether the next bytes are these.

        :param mark: the bytes
        """
        self._fill(len(mark))
        return self._buffer.startswith(mark, self._position)

    def is_at_end(self) -> bool:
        """Return whether there are no more bytes."""
        if self._position == len(self._buffer):
            self._fill(1)
        return self._position == len(self._buffer)

    def take_line(self, limit: int) -> tuple[bytearray, bool] | None:
        """
        Take the rest of a line, and its end, if it is not too long; otherwise take nothing.

        :param limit: the most bytes that are taken, not counting the line feed
        :returns: the bytes without the line feed and whether there was one; ``None`` when they are more
        """
        seen = 0
        while True:
            end = self._buffer.find(b"\n", self._position + seen)
            if end < 0:
                seen = self._unread
                if seen <= limit and self._read_piece():
                    continue
                end = len(self._buffer)
            if end - self._position > limit:
                return None
            line = self._buffer[self._position : end]
            has_end = end < len(self._buffer)
            self.skip(len(line) + has_end)
            return line, has_end

    def take_lines(self, limit: int) -> bytes:
        """
        Take as many whole lines as fit, with their ends.

        :param limit: the most bytes that are taken
        :returns: the lines; empty when the next one is longer, or has no end
        """
        self._fill(limit)
        end = self._buffer.rfind(b"\n", self._position, self._position + limit) + 1
        lines = bytes(memoryview(self._buffer)[self._position : max(end, self._position)])
        self.skip(len(lines))
        return lines

    def peek(self, size: int) -> Window:
        """
        Return the next bytes of the line without taking them.

        :param size: the most bytes that are returned
        """
        # One more, which may be the line's end.
        self._fill(size + 1)
        end = self._buffer.find(b"\n", self._position, self._position + size + 1)
        is_rest = end >= 0 or self._unread <= size
        if end < 0:
            end = self._position + size
        return Window(self._buffer[self._position : end], is_rest)

    def skip(self, size: int) -> None:
        """
        Take bytes that were returned before, or a line's end.

        :param size: how many bytes
        """
        self._position += size
        self.offset += size

    def skip_line(self) -> bool:
        """Skip the rest of the line, however long it is; return whether it had a line feed."""
        while not self.is_at_end():
            end = self._buffer.find(b"\n", self._position)
            if end >= 0:
                self.skip(end + 1 - self._position)
                return True
            self.skip(self._unread)
        return False

    @property
    def _unread(self) -> int:
        return len(self._buffer) - self._position

    def _fill(self, size: int) -> None:
        while self._unread < size and self._read_piece():
            pass

    def _read_piece(self) -> bool:
        if self._is_exhausted:
            return False
        piece = next(self._pieces, None)
        if piece is None:
            self._is_exhausted = True
            return False
        # A bytearray gives bytes at its beginning away without moving the others.
        del self._buffer[: self._position]
        self._position = 0
        self._buffer += piece
        return True
