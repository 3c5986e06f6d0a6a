"""Lines by the block, parsed in threads ahead of the one that uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from airflow_provider_personalize_segments.output.lines import LineBuffer

BLOCK_SIZE = 1024**2
"""Bytes of lines that are parsed at once, where there is a function for blocks."""
BLOCKS_AHEAD = 2
"""Blocks that threads parse while what is in the one before is used."""


class LoadedBlock(NamedTuple):
    """
    Whole lines, and what they hold.

    :param offset: where the first begins, in bytes from the beginning of the object
    :param data: the lines, with their line feeds
    :param lines: how many there are
    :param loaded: what the function made of them
    """

    offset: int
    data: bytes
    lines: int
    loaded: Any


def load_blocks(lines: LineBuffer, load_block: Callable[[bytes], Any]) -> Iterator[LoadedBlock]:
    """
    Yield whole lines, and what they hold, until a line is too long for a block.

    :param lines: where they come from
    :param load_block: makes something of them, in threads
    """
    with ThreadPoolExecutor(BLOCKS_AHEAD, thread_name_prefix="record-blocks") as threads:
        ahead: deque[tuple[int, bytes, Future[Any]]] = deque()
        while True:
            begin, data = lines.offset, lines.take_lines(BLOCK_SIZE)
            if data:
                ahead.append((begin, data, threads.submit(load_block, data)))
            if len(ahead) > (BLOCKS_AHEAD if data else 0):
                begin, data, loading = ahead.popleft()
                yield LoadedBlock(begin, data, data.count(b"\n"), loading.result())
            elif not data:
                return
