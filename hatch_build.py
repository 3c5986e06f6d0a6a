"""What a published package says of itself: its addresses, and a README whose links lead to them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class AddressHook(MetadataHookInterface):
    """Fills in ``[project.urls]`` and README from the one place that has the repository's address."""

    def update(self, metadata: dict[str, Any]) -> None:
        """
        Add the README, and the addresses where the repository's is known.

        :param metadata: the project's metadata, which this changes
        """
        readme = Path(self.root, "README.md").read_text()
        if repository := self.config["repository"].rstrip("/"):
            metadata["urls"] = {
                "Repository": repository,
                "Documentation": self.config["documentation"] or f"{repository}/blob/HEAD/docs/index.md",
                "Changelog": f"{repository}/blob/HEAD/CHANGELOG.md",
                "Issues": f"{repository}/issues",
            }
            readme = re.sub(r"\]\((?!https?:|#)", f"]({repository}/blob/HEAD/", readme)
        metadata["readme"] = {"content-type": "text/markdown", "text": readme}
