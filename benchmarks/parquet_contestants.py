"""Turns one file of JSON Lines into Parquet in one way, and prints what that took.

Each way has a process of its own. It imports what it needs, says that it is ready, and waits for a line on
stdin: so those that are not measured have nothing to do meanwhile.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

JOB_ARN = "arn:aws:personalize:us-east-1:123456789012:batch-{}-job/weekly"
GROUP_ROWS = 256 * 1024
"""As many as ours has, where a contestant is told."""
LEVEL = 1
"""The level of zstd that ours has, which is Arrow's default; Polars and DuckDB have another one."""


class Contestant(ABC):
    """
    A way to make Parquet.

    :param options: the command line
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.source: Path = options.source
        self.target: Path = options.target
        self.ours: Path = options.ours
        self.longest_line: int = options.longest_line
        self.is_inference: bool = options.inference
        self.query = "userId" if self.is_inference else "itemId"
        self.results = "recommendedItems" if self.is_inference else "usersList"
        self.result = "item_id" if self.is_inference else "user_id"
        self.job_arn = JOB_ARN.format("inference" if self.is_inference else "segment")
        self.load()

    @abstractmethod
    def load(self) -> None:
        """Import what is needed."""

    def prepare(self) -> None:
        """Do what is not measured, once it is this contestant's turn: as a rule, nothing."""
        return

    @abstractmethod
    def convert(self) -> None:
        """Read the source and write the target."""


class Ours(Contestant):
    """``convert_output``, with a stand-in for S3 that has no network."""

    def load(self) -> None:
        """Import Airflow, too."""
        from airflow_provider_personalize_segments.output.converting import convert_output
        from airflow_provider_personalize_segments.output.folders import FileInFolder
        from airflow_provider_personalize_segments.output.objects import S3Object

        self._convert, self._open, self._object = convert_output, FileInFolder, S3Object

    def convert(self) -> None:
        """Convert as the operator's task does."""
        log = logging.Logger("nobody reads it", logging.CRITICAL)
        size = self.source.stat().st_size
        source = self._object("bucket", self.source.name, size, '"etag"', datetime.now(UTC))
        summary, has_errors = self._convert(
            LocalS3(self.source),
            self.job_arn,
            [source],
            lambda: self._open(self.target.open("wb")),
            lambda: self._open(self.target.with_suffix(".errors").open("wb")),
            log,
        )
        if summary.errors or has_errors:
            raise RuntimeError(f"Ours found errors where there are none: {summary.first_errors}")


class LocalS3:
    """
    A client for S3 that has one object.

    :param path: the file with the object's bytes
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get_object(self, *, Range: str, **_: str) -> dict[str, Any]:  # noqa: N803 - boto3 calls it so
        """Answer with a file that is at the range's beginning; the caller reads no further than its end."""
        begin = int(Range.removeprefix("bytes=").partition("-")[0])
        body = self._path.open("rb", buffering=0)
        body.seek(begin)
        return {"Body": body, "ContentRange": f"bytes {begin}-"}


class Floor(Contestant):
    """Writes what ours wrote from Arrow's arrays in memory: with this writer, nothing can be faster."""

    def load(self) -> None:
        """Import the module that ours writes with, so that both have the same settings."""
        import pyarrow.parquet as pq

        from airflow_provider_personalize_segments.output.folders import FileInFolder
        from airflow_provider_personalize_segments.output.parquet import ParquetFile

        self._pq, self._file, self._open = pq, ParquetFile, FileInFolder

    def prepare(self) -> None:
        """Read the row groups of the file that ours wrote."""
        repeated = ["query", "job_arn", *(["theme"] if self.is_inference else [])]
        with self._pq.ParquetFile(self.ours, read_dictionary=repeated) as file:
            self._groups = [file.read_row_group(index) for index in range(file.num_row_groups)]

    def convert(self) -> None:
        """Write the row groups."""
        items = ["item_id"] if self.is_inference else []
        file = self._file(self._open(self.target.open("wb")), self._groups[0].schema, items)
        for group in self._groups:
            file.write(group)
        file.finish()


class JsonLoads(Contestant):
    """What most people would write: ``json.loads`` for each line, and lists."""

    def load(self) -> None:
        """Import pyarrow."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._pa, self._pq = pa, pq

    def convert(self) -> None:
        """Gather lists until they are a row group."""
        pa = self._pa
        text = pa.dictionary(pa.int32(), pa.string())
        types = {"query": text, self.result: pa.string(), "rank": pa.int32(), "job_arn": text}
        if self.is_inference:
            types["score"] = pa.float64()
        columns: dict[str, list[Any]] = {name: [] for name in types}
        schema = pa.schema(list(types.items()))
        with (
            self.source.open("rb") as lines,
            self._pq.ParquetWriter(self.target, schema, compression="zstd") as writer,
        ):

            def write() -> None:
                writer.write_table(pa.table(columns, schema=schema))
                for column in columns.values():
                    column.clear()

            for line in lines:
                record = json.loads(line)
                output = record["output"]
                results = output[self.results]
                columns["query"] += [record["input"][self.query]] * len(results)
                columns[self.result] += results
                columns["rank"] += range(1, len(results) + 1)
                columns["job_arn"] += [self.job_arn] * len(results)
                if self.is_inference:
                    columns["score"] += output["scores"]
                if len(columns["rank"]) >= GROUP_ROWS:
                    write()
            write()


class Polars(Contestant):
    """Polars, lazily from end to end."""

    def load(self) -> None:
        """Import polars."""
        import polars as pl

        self._pl = pl

    def convert(self) -> None:
        """Scan, explode and sink."""
        pl = self._pl
        results = pl.col("output").struct.field(self.results)
        exploded = {self.result: results, "rank": pl.int_ranges(1, results.list.len() + 1, dtype=pl.Int32)}
        if self.is_inference:
            exploded["score"] = pl.col("output").struct.field("scores")
        query = pl.col("input").struct.field(self.query)
        table = pl.scan_ndjson(self.source).select(query=query, **exploded).explode(list(exploded))
        table = table.with_columns(job_arn=pl.lit(self.job_arn))
        table.sink_parquet(self.target, compression="zstd", compression_level=LEVEL)


class DuckDB(Contestant):
    """DuckDB, in one statement."""

    def load(self) -> None:
        """Import duckdb."""
        import duckdb

        self._duckdb = duckdb

    def convert(self) -> None:
        """Read, unnest and copy; a line that is longer than it takes by default needs a word."""
        size = max(16 * 1024**2, self.longest_line + 1)
        score, scores = (
            (", unnest(output.scores) AS score", ", scores DOUBLE[]") if self.is_inference else ("", "")
        )
        # Without types it takes IDs that look like UUIDs for numbers.
        columns = (
            f"{{input: 'STRUCT({self.query} VARCHAR)', output: 'STRUCT({self.results} VARCHAR[]{scores})'}}"
        )
        self._duckdb.sql(
            f"COPY (SELECT input.{self.query} AS query, unnest(output.{self.results}) AS {self.result}, "
            f"generate_subscripts(output.{self.results}, 1)::int AS rank{score}, "
            f"'{self.job_arn}' AS job_arn "
            f"FROM read_json('{self.source}', format='newline_delimited', columns={columns}, "
            f"maximum_object_size={size})) "
            f"TO '{self.target}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {LEVEL})"
        )


CONTESTANTS: dict[str, type[Contestant]] = {
    "ours": Ours,
    "floor": Floor,
    "json.loads": JsonLoads,
    "polars": Polars,
    "duckdb": DuckDB,
}


def read_memory(name: str) -> int:
    """Return one of Linux's figures about this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def forget_peak() -> None:
    """Let Linux count the peak anew: imports may have taken more than was left after them."""
    with suppress(OSError):  # some containers forbid it
        Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Convert once, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("source", type=Path, help="the file of JSON Lines")
    parser.add_argument("target", type=Path, help="the Parquet file to write")
    parser.add_argument("--ours", type=Path, help="the file that ours wrote, for the floor")
    parser.add_argument("--longest-line", type=int, required=True, help="bytes of the longest line")
    parser.add_argument("--inference", action="store_true", help="the file is of a batch inference job")
    options = parser.parse_args()
    contestant = CONTESTANTS[options.name](options)
    print("ready", flush=True)
    if not input():
        return
    contestant.prepare()
    forget_peak()
    # Not getrusage: a process begins with the peak of the one that started it.
    before = read_memory("VmRSS")
    start, cpu = time.perf_counter(), time.process_time()
    contestant.convert()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = read_memory("VmHWM") - before
    size = os.path.getsize(options.target)
    print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "size": size}))


if __name__ == "__main__":
    main()
