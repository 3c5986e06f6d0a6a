"""Names for jobs that a task creates: the same at every try, and no other task instance's."""

from __future__ import annotations

import base64
import hashlib
import json
import re

from airflow_provider_personalize_segments.jobs import MAX_JOB_NAME_LENGTH

MAX_NUMBER = 99
"""The highest number that a name is given; whoever needs more should put a date into ``job_name``."""
_DIGEST_LENGTH = 12
"""Characters that keep shortened names apart; 60 bits."""
_LONGEST_RUN = 20


def derive_job_name(dag_id: str, task_id: str, run_id: str, map_index: int) -> str:
    """
    Return the job name of a task instance: readable, at most 60 characters, and no other instance's.

    ``shop-create_segments-20261123T020000-k3vq7n2mzb4a``: DAG, task, the time in the run's ID or as much
    of the ID as there is room for, the map index where there is one, and a digest of all four. Nothing in
    it changes between tries. The three characters left are for :func:`number_job_name`.

    :param dag_id: the DAG's ID
    :param task_id: the task's ID
    :param run_id: the DAG run's ID
    :param map_index: the task instance's map index; -1 when it is not mapped
    """
    digest = _digest(dag_id, task_id, run_id, map_index)
    moment = re.search(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)", run_id, re.ASCII)
    run = "{}{}{}T{}{}{}".format(*moment.groups()) if moment else _clean(run_id)[:_LONGEST_RUN]
    tail = "-".join(filter(None, (run, str(map_index) if map_index >= 0 else "", digest)))
    room = _longest(MAX_NUMBER) - len(tail) - 2
    dag, task = _clean(dag_id), _clean(task_id)
    # The shorter of the two keeps its name, the longer one gets the rest.
    dag = dag[: max(room // 2, room - len(task))]
    task = task[: room - len(dag)]
    return re.sub(r"^[-_]+", "", "-".join(filter(None, (dag, task, tail))))


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


def _longest(number: int) -> int:
    return MAX_JOB_NAME_LENGTH - len(f"-{number}")


def _clean(text: str) -> str:
    return re.sub(r"[^a-zA-Z0-9_]+", "-", text).strip("-_")


def _digest(*parts: object) -> str:
    content = json.dumps(parts).encode()
    return base64.b32encode(hashlib.sha256(content).digest()).decode()[:_DIGEST_LENGTH].lower()
