"""Write what a batch job leaves in S3, in the shapes that real jobs leave.

Filters are not applied: ``filterArn`` is accepted and shown again, ``filterValues`` in the input are let
through, and the users or items named stay the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from moto.s3.exceptions import MissingBucket
from moto.s3.models import FakeBucket, FakeKey, S3Backend, s3_backends
from moto.utilities.utils import get_partition

from airflow_provider_personalize_segments.jobs import BatchJobKind
from airflow_provider_personalize_segments.output.own_files import choose_input
from airflow_provider_personalize_segments.recipes import THEME_LINES, Recipe, are_item_conditions
from airflow_provider_personalize_segments.testing.recipes import (
    RECIPES,
    SAME_FOR_ALL_RECIPES,
    SCORED_RECIPES,
)
from airflow_provider_personalize_segments.testing.validation import THEME_MODE

MAX_INPUT_FILES = 1000
MAX_INPUT_BYTES = 1024**3
_S3_PATH = re.compile(r"s3://(?P<bucket>[^/]+)(?:/(?P<prefix>.*))?", re.DOTALL)
_THEMES = ("Quick weeknight picks", "Loved by collectors", "Gifts for the curious", "Everyday essentials")


class JobOutputError(Exception):
    """The job cannot run; the message is the job's failure reason."""


@dataclass(frozen=True)
class Population:
    """
    The users and items there are to be named in output.

    :param seed: another seed names others; the same seed names the same for the same input record
    :param size: how many users there are, and how many items
    """

    seed: int
    size: int

    def draw(self, prefix: str, subject: object, count: int) -> Iterator[str]:
        """
        Yield different identifiers, best first; a longer list begins with the shorter one.

        :param prefix: what the identifiers begin with, ``user`` or ``item``
        :param subject: what they are drawn for; equal subjects get equal lists
        :param count: how many, if there are so many
        """
        digest = hashlib.sha256(json.dumps([self.seed, prefix, subject], sort_keys=True).encode()).digest()
        chance = random.Random(digest)
        swapped: dict[int, int] = {}
        for place in range(min(count, self.size)):
            other = chance.randrange(place, self.size)
            yield f"{prefix}-{1000 + swapped.get(other, other)}"
            swapped[other] = swapped.get(place, place)


@dataclass(frozen=True)
class JobRun:
    """What of a job matters for its output."""

    kind: BatchJobKind
    account_id: str
    region_name: str
    recipe: str
    request: Mapping[str, Any]
    population: Population

    def write(self, when: float) -> None:
        """
        Read the input, write the output.

        :param when: when the job becomes ACTIVE, in seconds since the epoch
        :raises JobOutputError: when a path leads nowhere or the input is too much; then nothing is written
        """
        source = self.request["jobInput"]["s3DataSource"]["path"]
        target = self.request["jobOutput"]["s3DataDestination"]["path"]
        bucket, prefix = self._open(target, "output")
        inputs = self._read_input(source, bucket.name, prefix)
        lines_per_file = THEME_LINES if self._themed else RECIPES[self.recipe].lines
        outputs = {f"{prefix}_CHECK": b""}
        for key, content in inputs.items():
            # Only a line feed ends a line of JSON Lines: str.splitlines() knows others, which text may hold.
            lines = [line for line in content.decode(errors="replace").split("\n") if line.strip()]
            # AWS does not document what an input file without records does to a job. That it fails is our
            # assumption: a job that ends ACTIVE without output would hide the mistake from a test.
            if not lines:
                raise JobOutputError(
                    f"Invalid input file {key}: it has no records ({len(content)} bytes); expected one JSON "
                    "object a line."
                )
            if len(lines) > lines_per_file:
                raise JobOutputError(
                    f"Invalid input file {key}: it has {len(lines)} lines, "
                    f"{self.recipe} takes at most {lines_per_file}."
                )
            outputs[f"{prefix}{posixpath.basename(key)}.out"] = _dump(self._record(line) for line in lines)
        self._put(bucket, outputs, when)

    def write_records(self, records: Sequence[Mapping[str, Any]], created: float, when: float) -> None:
        """
        Write output that somebody else has made up, and the input to it where there is none.

        Buckets that are not there are made.

        :param records: the records, as a file of output has them
        :param created: when the job was created, in seconds since the epoch, so that no input looks newer
        :param when: when the job becomes ACTIVE, in the same form
        :raises JobOutputError: when a path leads nowhere
        """
        source = self.request["jobInput"]["s3DataSource"]["path"]
        target = self.request["jobOutput"]["s3DataDestination"]["path"]
        for path in (source, target):
            match = _S3_PATH.fullmatch(path)
            if match and match["bucket"] not in self._s3.buckets:
                self._s3.create_bucket(match["bucket"], self.region_name)
        target_bucket, prefix = self._open(target, "output")
        bucket, key = self._open(source, "input")
        try:
            key = next(iter(self._read_input(source, target_bucket.name, prefix)))
        except JobOutputError:
            key = f"{key}items.json" if key.endswith("/") or not key else key
            content = _dump(record.get("input", {}) for record in records)
            read = self._s3.put_object(bucket.name, key, content)
            read.last_modified = datetime.fromtimestamp(math.floor(created), UTC).replace(tzinfo=None)
        outputs = {f"{prefix}_CHECK": b"", f"{prefix}{posixpath.basename(key)}.out": _dump(records)}
        self._put(target_bucket, outputs, when)

    def _put(self, bucket: FakeBucket, outputs: Mapping[str, bytes], when: float) -> None:
        # S3 keeps whole seconds; rounded up, so that no output looks older than the job that wrote it.
        modified = datetime.fromtimestamp(math.ceil(when), UTC).replace(tzinfo=None)
        kms_key = self.request["jobOutput"]["s3DataDestination"].get("kmsKeyArn")
        for key, content in outputs.items():
            written = self._s3.put_object(
                bucket.name, key, content, encryption="aws:kms" if kms_key else None, kms_key_id=kms_key
            )
            written.last_modified = modified

    @property
    def _s3(self) -> S3Backend:
        return s3_backends[self.account_id][get_partition(self.region_name)]

    @property
    def _themed(self) -> bool:
        return self.request.get("batchInferenceJobMode") == THEME_MODE

    def _open(self, path: str, which: str) -> tuple[FakeBucket, str]:
        refused = f"Invalid S3 {which} path"
        match = _S3_PATH.fullmatch(path)
        if not match:
            raise JobOutputError(f"{refused}: {path} is not s3://bucket/prefix.")
        try:
            bucket = self._s3.get_bucket(match["bucket"])
        except MissingBucket:
            raise JobOutputError(f"{refused}: the bucket of {path} does not exist.") from None
        if bucket.region_name != self.region_name:
            raise JobOutputError(
                f"{refused}: the bucket of {path} is in {bucket.region_name}, the job in {self.region_name}."
            )
        return bucket, match["prefix"] or ""

    def _read_input(self, path: str, output_bucket: str, output_prefix: str) -> dict[str, bytes]:
        bucket, prefix = self._open(path, "input")
        listed = {
            name: key
            for name, key in sorted(bucket.keys.items())
            if isinstance(key, FakeKey) and name.startswith(prefix)
        }
        # What AWS makes of markers and of its own output is not documented: this side assumes it, too.
        sizes = {name: key.contentsize for name, key in listed.items()}
        is_beside = bucket.name == output_bucket
        found = {
            name: listed[name] for name in choose_input(sizes, prefix, output_prefix if is_beside else None)
        }
        if not found:
            raise JobOutputError(f"Invalid S3 input path: no object begins with {path}.")
        if len(found) > MAX_INPUT_FILES:
            raise JobOutputError(
                f"Invalid S3 input path: {path} begins {len(found)} objects; at most {MAX_INPUT_FILES} may."
            )
        if sum(key.contentsize for key in found.values()) > MAX_INPUT_BYTES:
            raise JobOutputError(
                f"Invalid S3 input path: the objects under {path} are larger than 1 GB together."
            )
        return {name: key.value for name, key in found.items()}

    def _record(self, line: str) -> dict[str, Any]:
        recipe = RECIPES[self.recipe]
        result = self.kind.result_members[0]
        try:
            record = json.loads(line)
            json.dumps(record, ensure_ascii=False).encode()  # half a surrogate fits in no file
        except ValueError:
            record = None
        if not isinstance(record, dict):
            return {"input": {}, "output": {result: []}, "error": "User error: The line is not a JSON object"}
        error = _find_error(recipe, record)
        if error:
            return {"input": record, "output": {result: []}, "error": f"User error: {error}"}
        return {"input": record, "output": self._answer(recipe, record), "error": None}

    def _answer(self, recipe: Recipe, record: Mapping[str, Any]) -> dict[str, Any]:
        result = self.kind.result_members[0]
        subject = {name: record[name] for name in recipe.members}
        count = self.request["numResults"]
        if self.kind is BatchJobKind.SEGMENT:
            return {result: list(self.population.draw("user", subject, count))}
        if "itemList" in subject:
            items = sorted(
                record["itemList"], key=lambda item: _weigh(self.population.seed, record["userId"], item)
            )
        else:
            # One more, because an item is not similar to itself.
            drawn = self.population.draw(
                "item", {} if self.recipe in SAME_FOR_ALL_RECIPES else subject, count + 1
            )
            items = [each for each in drawn if each != record.get("itemId")][:count]
        answer: dict[str, Any] = {result: items}
        if self.recipe in SCORED_RECIPES:
            answer["scores"] = _falling_scores(len(items))
        if self._themed:
            theme = _weigh(self.population.seed, "theme", record["itemId"])[0] % len(_THEMES)
            answer["theme"] = _THEMES[theme]
            answer["itemsThemeRelevanceScores"] = _falling_scores(len(items))
        return answer


def _dump(records: Iterable[Mapping[str, Any]]) -> bytes:
    """Return records as JSON Lines, as real jobs write them."""
    dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
    return "".join(f"{dump(record)}\n" for record in records).encode()


def _find_error(recipe: Recipe, record: Mapping[str, Any]) -> str | None:
    def is_text(value: object) -> bool:
        return isinstance(value, str) and bool(value)

    for name in recipe.members:
        value = record.get(name)
        fits = isinstance(value, list) and all(map(is_text, value)) if name == "itemList" else is_text(value)
        if not fits:
            return f"Required fields for the provided recipe are {', '.join(recipe.members)}"
        if name == "itemAttributes" and not are_item_conditions(record[name]):
            return 'itemAttributes takes conditions such as ITEMS.GENRE = "Comedy", joined by AND'
    return None


def _weigh(*subject: object) -> bytes:
    return hashlib.sha256(json.dumps(subject).encode()).digest()


def _falling_scores(count: int) -> list[float]:
    weights = [1 / (place + 2) for place in range(count)]
    total = sum(weights)
    return [round(weight / total, 7) for weight in weights]
