"""Names for jobs that a task creates: one lineage's alone, and the same at every try of it.

A *lineage* is the tries of a task instance between two clears. Airflow tells lineages apart by ``max_tries``,
which stays the same from try to try, and is written anew when the task is cleared. Clearing a running task
writes it from Airflow 3.1 on, and does not before.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import NamedTuple

from airflow_provider_personalize_segments.arns import MAX_JOB_NAME_LENGTH

MAX_PREFIX_LENGTH = 16
"""Characters of a deployment's prefix: what is left has room for the run, the map index and the digest."""
MAX_NUMBER = 99
"""The highest number that a name is given; so often no task is tried."""
_DIGEST_LENGTH = 12
"""Characters that keep shortened names apart; 60 bits."""
_LONGEST_RUN = 20


class TaskLineage(NamedTuple):
    """
    The tries of a task instance between two clears.

    :param dag_id: the DAG's ID
    :param task_id: the task's ID
    :param run_id: the DAG run's ID
    :param map_index: the task instance's map index; -1 when it is not mapped
    :param max_tries: Airflow's ``max_tries`` of the task instance
    """

    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    max_tries: int


def derive_job_name(lineage: TaskLineage, prefix: str = "") -> str:
    """
    Return the job name of a lineage: readable, at most 60 characters, and no other lineage's.

    ``shop-create_segments-20261123T020000-k3vq7n2mzb4a``: DAG, task, the time in the run's ID or as much
    of the ID as there is room for, the map index where there is one, and a digest of these and of
    ``max_tries``. The three characters left are for :func:`number_job_name`.

    :param lineage: the lineage
    :param prefix: what keeps two Airflows apart: the beginning of the name, and part of the digest
    """
    run_id, map_index = lineage.run_id, lineage.map_index
    moment = re.search(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", run_id, re.ASCII)
    run = "{}{}{}T{}{}{}".format(*moment.groups()) if moment else _clean(run_id)[:_LONGEST_RUN]
    tail = "-".join(filter(None, (run, str(map_index) if map_index >= 0 else "", _mark(lineage, prefix))))
    head = _make_head(prefix)
    room = max(0, _longest(MAX_NUMBER) - len(head) - len(tail) - 2)
    dag, task = _clean(lineage.dag_id), _clean(lineage.task_id)
    # The shorter of the two keeps its name, the longer one gets the rest.
    dag = dag[: max(room // 2, room - len(task))]
    task = task[: room - len(dag)]
    return re.sub(r"^[-_]+", "", head + "-".join(filter(None, (dag, task, tail))))


def extend_job_name(name: str, lineage: TaskLineage, prefix: str = "") -> str:
    """
    Return the name of a lineage's own that begins with a name which a user chose; at most 60 characters.

    :param name: the user's name
    :param lineage: the lineage
    :param prefix: what keeps two Airflows apart: it stands between the user's name and the digest
    """
    added = _make_head(prefix) + _mark(lineage, prefix, name)
    return f"{name[: _longest(MAX_NUMBER) - len(added) - 1]}-{added}"


def number_job_name(name: str, number: int) -> str:
    """
    Return the name under which a job is created for the first, second or a later time.

    :param name: the name of the first
    :param number: 1 returns the name itself, a higher one puts ``-2`` and so on behind it; a name that leaves
        no room is shortened, and kept apart from others by a digest
    """
    if number == 1:
        return name
    room = _longest(number)
    if len(name) > room:
        name = f"{name[: room - _DIGEST_LENGTH - 1]}-{_digest(name)}"
    return f"{name}-{number}"


def _make_head(prefix: str) -> str:
    return f"{prefix}-" if prefix and prefix[-1] not in "-_" else prefix


def _mark(lineage: TaskLineage, prefix: str, *name: str) -> str:
    """Return the digest of a lineage in one Airflow; without a prefix it is that of earlier releases."""
    return _digest(*name, *lineage, *([prefix] if prefix else []))


def _longest(number: int) -> int:
    return MAX_JOB_NAME_LENGTH - len(f"-{number}")


def _clean(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]+", "-", text).strip("-_")


def _digest(*parts: object) -> str:
    content = json.dumps(parts).encode()
    return base64.b32encode(hashlib.sha256(content).digest()).decode()[:_DIGEST_LENGTH].lower()
