"""The documents, as the tests read them: which there are, and the blocks of code in them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parent.parent
DOCS = PROJECT / "docs"
README = (PROJECT / "README.md").read_text()
DOCUMENTS = [
    PROJECT / "README.md",
    PROJECT / "CONTRIBUTING.md",
    *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts),
]


class Block(NamedTuple):
    """
    What stands between two fences.

    :param language: the language, or a directive of MyST's in braces
    :param argument: what follows it
    :param text: the lines between
    """

    language: str
    argument: str
    text: str


def name_of(document):
    """A document's name in the names of tests: its path in the project."""
    return str(document.relative_to(PROJECT))


def all_blocks(text):
    """Return all fenced blocks of a document."""
    pattern = re.compile(r"^(`{3,})(\{[\w-]+\}|\w*)[ ]*(.*?)\n(.*?)^\1$", re.DOTALL | re.MULTILINE)
    return [Block(*found[1:]) for found in pattern.findall(text)]


def blocks(language, text=README):
    """Return the text of a document's blocks in one language."""
    return [block.text for block in all_blocks(text) if block.language == language]


def section(text, heading):
    """Return what stands under a heading of the second level."""
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
