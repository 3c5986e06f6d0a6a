"""What importing costs a DAG file: ours beside the amazon provider's sensors, in one run.

As the DAG processor does, each measurement forks a child from a process that has Airflow loaded already. The
children take turns, so that whatever else the machine does falls on all of them alike.
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from airflow.sdk import DAG, BaseOperator, BaseSensorOperator

ROUNDS = 15
OURS = "our sensors and operators"
STATEMENTS = {
    OURS: "from airflow_provider_personalize_segments import operators, sensors",
    "AwsBaseSensor": "from airflow.providers.amazon.aws.sensors.base_aws import AwsBaseSensor",
    "BedrockBatchInferenceSensor": (
        "from airflow.providers.amazon.aws.sensors.bedrock import BedrockBatchInferenceSensor"
    ),
    "import boto3": "import boto3",
}


def time_in_child(statement: str) -> float:
    """Return the milliseconds that a statement takes in a freshly forked child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = compile(statement, "<statement>", "exec")
        start = time.perf_counter()
        exec(code, {})
        os.write(writer, f"{(time.perf_counter() - start) * 1000:.3f}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as result:
        milliseconds = float(result.read() or "nan")
    os.waitpid(child, 0)
    return milliseconds


def main() -> None:
    """Print the table."""
    assert DAG, BaseOperator
    assert BaseSensorOperator
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(ROUNDS):
        for name, statement in STATEMENTS.items():
            times[name].append(time_in_child(statement))
    ours = statistics.median(times[OURS])
    python = sys.version.split()[0]
    print(f"Import cost in a forked child that has Airflow loaded; median of {ROUNDS}, Python {python}")
    print(f"{'':<28}{'ms':>9}{'lowest':>9}{'times ours':>12}")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:<28}{median:>9.1f}{min(values):>9.1f}{median / ours:>12.0f}")


if __name__ == "__main__":
    main()
