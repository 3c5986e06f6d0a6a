"""Where the package will be published is said once, and everything else follows from it."""

from __future__ import annotations

import re
import runpy

import pytest
from documents import PROJECT, README

HOOK = runpy.run_path(str(PROJECT / "hatch_build.py"))["AddressHook"]


def describe(**config):
    metadata = {}
    HOOK(str(PROJECT), {"repository": "", "documentation": "", **config}).update(metadata)
    return metadata


def test_without_an_address_none_is_made_up():
    assert describe() == {"readme": {"content-type": "text/markdown", "text": README}}


@pytest.mark.parametrize("repository", ["https://example.org/us/it", "https://example.org/us/it/"])
def test_the_repository_is_where_everything_leads(repository):
    found = describe(repository=repository)
    assert found["urls"] == {
        "Repository": "https://example.org/us/it",
        "Documentation": "https://example.org/us/it/blob/HEAD/docs/index.md",
        "Changelog": "https://example.org/us/it/blob/HEAD/CHANGELOG.md",
        "Issues": "https://example.org/us/it/issues",
    }
    targets = re.findall(r"\]\((.*?)\)", found["readme"]["text"])
    assert all(target.startswith("https://") for target in targets)
    ours = [target.removeprefix("https://example.org/us/it/blob/HEAD/") for target in targets]
    files = {target.partition("#")[0] for target in ours if not target.startswith("https://")}
    assert "docs/first-steps.md" in files
    assert not [name for name in files if not (PROJECT / name).exists()]


def test_the_documentation_may_live_elsewhere():
    found = describe(repository="https://example.org/us/it", documentation="https://docs.example.org/")
    assert found["urls"]["Documentation"] == "https://docs.example.org/"
