"""How our patterns repeat a group, which Python 3.11 does right from 3.11.5 on only."""

from __future__ import annotations

import sys

# A quantifier with a second + gives nothing back: no text makes a search slow, and repeating takes no memory.
# Before 3.11.5 a repetition that fails in its middle leaves the search there, and what follows is matched in
# the wrong place (python/cpython#106052). Our groups match in one way only, so the plain quantifier finds the
# same.
REPEATED = b"*+" if sys.version_info >= (3, 11, 5) else b"*"
"""Follows a group that is repeated any number of times."""
