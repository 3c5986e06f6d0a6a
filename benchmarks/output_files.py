"""Writes what a batch job leaves in S3, JSON Lines of any size, in seconds and from a fixed seed."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SEED = 20261
ITEMS = 10
"""Items that are recommended in a record of inference."""
CATALOGUE = 20_000
LISTS = 50_000
"""Different lists of items; their scores come from one list less, so pairs repeat after all of them."""
_UUID = b'"00000000-0000-4000-8000-000000000000",'
_PLACES = [place for place, char in enumerate(_UUID) if char == ord("0")]


class OutputFile(NamedTuple):
    """
    A file to measure with.

    :param title: what it is, in the table
    :param lines: how many records
    :param length: results of each record
    :param ids: ``short`` or ``uuid``; those of users in segments
    :param is_inference: whether a batch inference job wrote it
    """

    title: str
    lines: int
    length: int
    ids: str
    is_inference: bool = False

    @property
    def rows(self) -> int:
        """How many rows it becomes."""
        return self.lines * self.length

    def write(self, path: Path) -> int:
        """Write it, and return the length of the longest line."""
        chance = random.Random(SEED)
        longest = 0
        with path.open("wb") as file:
            for line in _recommend(chance, self.lines) if self.is_inference else self._segment(chance):
                file.write(line)
                longest = max(longest, len(line))
        return longest

    def _segment(self, chance: random.Random) -> Iterator[bytes]:
        make = {"short": _short_ids, "uuid": _uuids}[self.ids]
        for number in range(self.lines):
            yield b'{"input":{"itemId":"%d"},"output":{"usersList":[%b]},"error":null}\n' % (
                number,
                make(chance, self.length),
            )


def make_files(scale: float) -> list[OutputFile]:
    """Return the files to measure with, fewer users and records in each where the scale is below 1."""

    def scaled(count: int) -> int:
        return max(1, round(count * scale))

    shapes = [("many", 500, 10_000), ("ten", 10, 1_000_000), ("one", 1, 5_000_000)]
    files = [
        OutputFile(f"{name}, {ids}", lines, scaled(users), ids)
        for name, lines, users in shapes
        for ids in ("short", "uuid")
    ]
    return [*files, OutputFile("inference", scaled(1_000_000), ITEMS, "short", is_inference=True)]


def _short_ids(chance: random.Random, count: int) -> bytes:
    numbers = array("I", chance.randbytes(4 * count))
    return b'"%b"' % '","'.join([str(number % 10_000_000) for number in numbers]).encode()


def _uuids(chance: random.Random, count: int) -> bytes:
    digits = chance.randbytes(count * (len(_PLACES) + 1) // 2).hex().encode()
    text = bytearray(_UUID * count)
    for index, place in enumerate(_PLACES):
        # One digit of all of them at once.
        text[place :: len(_UUID)] = digits[index * count : (index + 1) * count]
    return bytes(text[:-1])


def _recommend(chance: random.Random, records: int) -> Iterator[bytes]:
    count = min(LISTS, records + 1)
    catalogue = _short_ids(chance, CATALOGUE).decode().split(",")
    items = [",".join(chance.sample(catalogue, ITEMS)) for _ in range(count)]
    scores = [
        ",".join(f"{score:.7f}" for score in sorted((chance.random() for _ in range(ITEMS)), reverse=True))
        for _ in range(max(1, count - 1))
    ]
    for number in range(records):
        yield (
            f'{{"input":{{"userId":"{number}"}},"output":{{"recommendedItems":[{items[number % count]}],'
            f'"scores":[{scores[number % len(scores)]}]}},"error":null}}\n'
        ).encode()
