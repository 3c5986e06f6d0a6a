"""How our patterns repeat a group, which Python 3.11 does right from 3.11.5 on only."""

from __future__ import annotations

import sys

# A quantifier with a second + gives nothing back: no text makes a search slow, and repeating takes no memory.
# Before 3.11.5 Python does not go back when a repetition fails in its middle, and matches what follows in the
# wrong place (python/cpython#106052). Our groups match in one way only: the plain quantifier finds the same.
REPEATED = b"*+" if sys.version_info >= (3, 11, 5) else b"*"
"""Follows a group that is repeated any number of times."""
