"""How Sphinx builds the documentation; ``make docs`` runs it."""

from __future__ import annotations

import os
import tomllib
from logging import WARNING, getLogger
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from docutils import nodes
from sphinx.util import logging

import airflow_provider_personalize_segments as package

# The reference is read from the package, which imports Airflow: it is to stay in the checkout, and quiet.
os.environ.setdefault("AIRFLOW_HOME", str(Path(__file__).parent.parent / ".airflow" / "docs"))
for name in ("airflow.configuration", "airflow.settings"):
    getLogger(name).setLevel(WARNING)

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "Airflow provider for Amazon Personalize batch jobs"
author = "the contributors"
copyright = author  # noqa: A001 - Sphinx asks for it by this name
version = release = package.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
exclude_patterns = ["_build"]

html_theme = "furo"
_pyproject = tomllib.loads(Path(__file__).parent.parent.joinpath("pyproject.toml").read_text())
if repository := _pyproject["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"]:
    html_theme_options = {
        "source_repository": repository,
        "source_branch": "HEAD",
        "source_directory": "docs/",
    }
html_title = "Personalize batch jobs in Airflow"
html_show_copyright = False

# Every heading down to the third level can be linked to, as on GitHub.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Parameters and their types are in the signature, one a line; what they mean is in the docstring.
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 80

# Every name that a docstring or a signature refers to must be in the reference, but for these: what is not
# ours, which only the network could tell; and what lies behind the modules that users import.
nitpicky = True
nitpick_ignore_regex = [
    ("py:class", r"(airflow|botocore|collections|datetime)\..+"),
    (
        "py:class",
        r"(BaseOperator|Connection|Context|TaskInstanceKey|DAG|MappedOperator|XComArg)",
    ),  # Airflow's, for type checkers only
    ("py:class", r"(PersonalizeClient|datetime|DagRunResult)"),  # for type checkers only, as well
    ("py:class", r"Log|.+\.testing\.(mock\.(F|MockPersonalize)|backend\..+|faults\.Fault)"),
    ("py:(class|mod)", r"(creating\.queue|waiting\.(events|poller))(\..+)?"),
]

# For `make links`, which asks the network.
linkcheck_anchors = False
linkcheck_timeout = 20


def check_external_links(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Warn about links to elsewhere that cannot be right; whether a page is there, only the network knows."""
    for link in doctree.findall(nodes.reference):
        target = link.get("refuri", "")
        if link.get("internal") or target.startswith("#") or not target:
            continue
        parts = urlsplit(target)
        if parts.scheme != "https" or "." not in parts.netloc or any(each.isspace() for each in target):
            logging.getLogger(__name__).warning("not the address of a page: %r", target, location=link)


def setup(app: Sphinx) -> None:
    """Have the links checked."""
    app.connect("doctree-resolved", check_external_links)
