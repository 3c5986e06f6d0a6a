"""Which of Airflow's lines the tests run on, and with which libraries."""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec

IS_BETWEEN = version("apache-airflow").startswith(("3.0.", "3.1.", "3.2."))
"""Whether tests run on a line between the oldest and the newest, where some options and faults take turns."""

IS_MANAGED = find_spec("aiobotocore") is not None
"""Whether tests run with what a managed Airflow installs under its official constraint file."""

HAS_LIBRARIES_OF_ITS_TIME = IS_BETWEEN or IS_MANAGED
"""Whether libraries are as old as Airflow, and use names that newer ones, or Python, deprecate."""

KNOWS_RANKING_INFLUENCE = tuple(map(int, version("botocore").split(".")[:3])) >= (1, 41, 6)
"""Whether boto3 knows ``rankingInfluence``, which it does from 1.41.6 on."""

STRICT = ["-W", "error", *(["-W", "ignore::DeprecationWarning"] if HAS_LIBRARIES_OF_ITS_TIME else [])]
"""Options with which a Python process takes warnings for errors."""

HAS_RECORD = not IS_BETWEEN and not version("apache-airflow").startswith("2.")
"""Whether Airflow keeps what a task writes for its next try, which it does from 3.3 on."""
