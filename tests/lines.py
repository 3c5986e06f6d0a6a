"""Which of Airflow's lines the tests run on."""

from __future__ import annotations

from importlib.metadata import version

IS_BETWEEN = version("apache-airflow").startswith(("3.0.", "3.1.", "3.2."))
"""Whether tests run on a line between the oldest and the newest, where some options and faults take turns."""
HAS_RECORD = not IS_BETWEEN and not version("apache-airflow").startswith("2.")
"""Whether Airflow keeps what a task writes for its next try, which it does from 3.3 on."""
