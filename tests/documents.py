"""The documents, as the tests read them: which there are, and the blocks of code in them."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

IS_AIRFLOW_2 = version("apache-airflow").startswith("2.")
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
    """Return the text of a document's blocks in one language; Python as the running Airflow takes it."""
    found = [block.text for block in all_blocks(text) if block.language == language]
    return [_import_before_3(each) for each in found] if language == "python" and IS_AIRFLOW_2 else found


def _import_before_3(code):
    """Return code that imports Airflow's names from where the first steps say that Airflow 2.11 has them."""
    table = section((DOCS / "first-steps.md").read_text(), "Write it for your Airflow")
    lines = dict(re.findall(r"^\| `(\w+)` \| `(from airflow.*?)` \|$", table, re.MULTILINE))

    def replace(found):
        return "\n".join(lines[name] for name in found[1].split(", "))

    return re.sub(r"^from airflow\.sdk import (.*)$", replace, code, flags=re.MULTILINE)


def section(text, heading):
    """Return what stands under a heading of the second level."""
    return text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
