"""What turning a job's output into Parquet costs: ours beside what people use, in one run.

Each conversion is made in a fresh process. The contestants take turns, so that whatever else the machine does
falls on all of them alike. Polars and DuckDB are needed beside Airflow and this package with its extra
``parquet``: install them in an environment of their own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, NamedTuple

from output_files import OutputFile, make_files
from parquet_contestants import CONTESTANTS

HERE = Path(__file__).parent
OURS, FLOOR = "ours", "floor"
LIBRARIES = [name for name in CONTESTANTS if name not in (OURS, FLOOR)]
MOST_MEMORY = 192e6
"""Bytes that ours may take, however long a line is; more is a failure."""
TIMES_FLOOR = 2.0
"""How often the floor's time ours may take; more is a goal missed."""
TITLES = ("MB/s", "seconds", "CPU s", "x floor", "peak MB", "file MB")
SMALL_SCALE = 0.1
"""Up to here the tables are compared row by row; above, those of small files are."""
SMALL_FILES = [
    OutputFile("three long lines", 3, 60_000, "uuid"),
    OutputFile("inference", 3000, 10, "short", is_inference=True),
]


class Figures(NamedTuple):
    """
    What conversions of a file by one contestant took.

    :param seconds: the time of the fastest
    :param cpu: the CPU time of that one
    :param peak: the memory of that which took most, in bytes above what was taken before
    :param size: how large the Parquet file is
    """

    seconds: float
    cpu: float
    peak: int
    size: int


class Race:
    """
    Lets all contestants convert one file, one after the other.

    :param file: the file
    :param folder: where everything is written
    """

    def __init__(self, file: OutputFile, folder: Path) -> None:
        self.file = file
        self.source = folder / "source.out"
        self.targets = {name: folder / f"{name}.parquet" for name in CONTESTANTS}
        self._longest_line = file.write(self.source)
        self.size = self.source.stat().st_size
        self._runs: dict[str, list[Figures]] = {name: [] for name in CONTESTANTS}

    def run_round(self) -> None:
        """Start all contestants, then let each convert the file; see that all wrote as many rows."""
        with ExitStack() as stack:
            processes = {name: stack.enter_context(self._start(name)) for name in CONTESTANTS}
            stack.callback(_end, list(processes.values()))
            for name, process in processes.items():
                assert process.stdout
                if process.stdout.readline() != "ready\n":
                    sys.exit(f"{name} could not start.")
            for name, process in processes.items():
                output, _ = process.communicate("go\n")
                if process.returncode:
                    sys.exit(f"{name} could not convert {self.file.title!r}.")
                self._runs[name].append(Figures(**json.loads(output)))
                if (rows := _count_rows(self.targets[name])) != self.file.rows:
                    sys.exit(f"{name} wrote {rows:,} rows of {self.file.title!r}, not {self.file.rows:,}.")

    def sum_up(self) -> dict[str, Figures]:
        """Return the best time and the largest peak of each contestant."""
        return {
            name: min(runs)._replace(peak=max(run.peak for run in runs)) for name, runs in self._runs.items()
        }

    def compare_tables(self) -> None:
        """See that all contestants wrote the same rows."""
        tables = {name: _read_sorted(path, self.file.is_inference) for name, path in self.targets.items()}
        for name, table in tables.items():
            if not table.equals(tables[OURS]):
                sys.exit(f"{name} and ours wrote different rows of the small file {self.file.title!r}.")

    def _start(self, name: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            str(HERE / "parquet_contestants.py"),
            name,
            str(self.source),
            str(self.targets[name]),
            f"--ours={self.targets[OURS]}",
            f"--longest-line={self._longest_line}",
            *(["--inference"] if self.file.is_inference else []),
        ]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _end(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        process.kill()
        with suppress(ValueError):  # its pipes are closed: it was waited for
            process.communicate()


def _count_rows(path: Path) -> int:
    import pyarrow.parquet as pq

    rows: int = pq.read_metadata(path).num_rows
    return rows


def _read_sorted(path: Path, is_inference: bool) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.string()
    if is_inference:
        types = {"query": text, "item_id": text, "rank": pa.int32(), "score": pa.float64(), "job_arn": text}
    else:
        types = {"query": text, "user_id": text, "rank": pa.int32(), "job_arn": text}
    schema = pa.schema(list(types.items()))
    table = pq.read_table(path, columns=list(types)).select(list(types)).cast(schema)
    return table.sort_by([("query", "ascending"), ("rank", "ascending")]).combine_chunks()


def judge(figures: dict[str, Figures], scale: float) -> list[str]:
    """Return what is to be said about the goals that ours has; those for time are for long files."""
    ours = figures[OURS]
    fastest = min(LIBRARIES, key=lambda name: figures[name].seconds)
    to_floor = ours.seconds / figures[FLOOR].seconds
    to_fastest = ours.seconds / figures[fastest].seconds
    megabytes = MOST_MEMORY / 1e6
    memory = f"{_met(ours.peak <= MOST_MEMORY)}: at most {megabytes:.0f} MB ({ours.peak / 1e6:.0f} MB)"
    if scale <= SMALL_SCALE:
        return [memory]
    return [
        f"{_met(to_floor <= TIMES_FLOOR)}: at most {TIMES_FLOOR:g} times the floor ({to_floor:.2f} times)",
        f"{_met(to_fastest <= 1)}: no slower than the fastest library ({to_fastest:.2f} times {fastest})",
        memory,
    ]


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def print_race(race: Race, figures: dict[str, Figures], scale: float) -> None:
    """Print the table of one file."""
    file, size = race.file, race.size / 1e6
    lines = "1 line" if file.lines == 1 else f"{file.lines:,} lines"
    print(f"\n{file.title}: {file.rows:,} rows from {lines}, {size:,.0f} MB")
    print(f"{'':<12}{'rows/s':>12}", *(f"{title:>8}" for title in TITLES))
    for name, each in figures.items():
        print(
            f"{name:<12}{file.rows / each.seconds:>12,.0f}{size / each.seconds:>9,.0f}{each.seconds:>9.2f}"
            f"{each.cpu:>9.2f}{each.seconds / figures[FLOOR].seconds:>9.2f}{each.peak / 1e6:>9,.0f}"
            f"{each.size / 1e6:>9,.1f}"
        )
    for line in judge(figures, scale):
        print(f"  {line}")
    sys.stdout.flush()


def print_overview(everything: dict[str, dict[str, Figures]]) -> None:
    """Print what each file cost, in CPU seconds and megabytes, ours beside the others."""
    names = [name for name in CONTESTANTS if name != FLOOR]
    print("\nCPU s / peak MB", " " * 5, *(f"{name:>16}" for name in names))
    for title, figures in everything.items():
        cells = (f"{figures[name].cpu:.1f} / {figures[name].peak / 1e6:,.0f}" for name in names)
        print(f"{title:<21}", *(f"{cell:>16}" for cell in cells))


def main() -> None:
    """Print a table for each file, and one of all; fail when ours takes too much memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="the share of the users and records")
    parser.add_argument("--rounds", type=int, help="how often each converts a file: 3, or 1 if scaled down")
    parser.add_argument("--json", type=Path, help="a file for all figures")
    options = parser.parse_args()
    if not all(importlib.util.find_spec(name) for name in ("polars", "duckdb", "pyarrow")):
        sys.exit(
            "This compares with Polars and DuckDB: install polars and duckdb together with this package and "
            "its extra 'parquet' in an environment of their own, and run this there."
        )
    rounds = options.rounds or (3 if options.scale >= 1 else 1)
    began, load = time.monotonic(), os.getloadavg()[0]
    if options.scale > SMALL_SCALE:
        for small in SMALL_FILES:
            with tempfile.TemporaryDirectory() as folder:
                race = Race(small, Path(folder))
                race.run_round()
                race.compare_tables()
    print(
        f"JSON Lines to Parquet, best time and largest peak of {rounds}, Python {sys.version.split()[0]}, "
        f"{os.cpu_count()} cores"
    )
    everything: dict[str, dict[str, Figures]] = {}
    for file in make_files(options.scale):
        with tempfile.TemporaryDirectory() as folder:
            race = Race(file, Path(folder))
            for _ in range(rounds):
                race.run_round()
            if options.scale <= SMALL_SCALE:
                race.compare_tables()
            everything[file.title] = race.sum_up()
            print_race(race, everything[file.title], options.scale)
    print_overview(everything)
    print(
        f"\nThe floor writes the rows of ours from memory, with the same settings. Peak memory is what a\n"
        f"process takes beside its imports. With a small --scale, the first row group\n"
        f"weighs more, and threads that start.\n"
        f"Took {time.monotonic() - began:.0f} s; load {load:.1f} before and {os.getloadavg()[0]:.1f} after."
    )
    if options.json:
        dumped = {
            title: {name: each._asdict() for name, each in figures.items()}
            for title, figures in everything.items()
        }
        options.json.write_text(json.dumps(dumped, indent=2) + "\n")
    if wasteful := [title for title, figures in everything.items() if figures[OURS].peak > MOST_MEMORY]:
        sys.exit(f"Ours took more than {MOST_MEMORY / 1e6:.0f} MB for: {'; '.join(wasteful)}.")


if __name__ == "__main__":
    main()
