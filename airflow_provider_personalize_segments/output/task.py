"""The operators that make tables of a job's output, but their kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_personalize_segments.tasks import CONNECTION_FIELDS, PersonalizeTask

if TYPE_CHECKING:
    from airflow_provider_personalize_segments.airflow_compat import Context


class OutputToParquetOperator(PersonalizeTask):
    """
    Write the output of a batch job that is ACTIVE as Parquet; base of the operators for the two kinds.

    The result is complete, or not there: parts are written to ``_staging/`` in ``output_path``, where readers
    do not look, then moved, and then ``_SUCCESS`` is written. A retry goes on with what is there, and makes
    one result. The task needs the extra ``parquet``.

    XCom ``return_value`` holds ``outputPath``, ``errorsPath`` (``None`` when no record has an error),
    ``rows``, ``files``, ``bytes``, ``records``, ``errors``, ``errorRate``, ``firstErrors`` and
    ``isComplete``. The counts are those of the whole result if it is complete, otherwise those of
    ``output_file``.

    :param job_arn: the ARN of the job
    :param output_path: the folder for the result, which must hold nothing else: ``s3://bucket/prefix/``,
        or any path that Airflow's ObjectStoragePath reaches, such as ``gs://connection@bucket/folder/``. A
        path has a scheme: ``file:///folder/`` is a folder on the worker. Path objects are right, too; on
        Airflow 3.0 and 3.1, whose templates take them for XComs, those of pathlib are not
    :param max_error_rate: the largest share of records with an error, 0.0 (the default) to 1.0. If it is
        larger, or a file of the output is missing, empty, old or cut off, the task fails with
        :class:`~.errors.PersonalizeOutputError`, without retries, and there is no result. Records with an
        error are rows in ``_errors/`` below ``output_path``
    :param output_file: convert this file of the job's output only, ``s3://bucket/key``; for a task that is
        mapped over :meth:`PersonalizeHook.list_output_files <.hooks.PersonalizeHook.list_output_files>`. The
        task that converts the last of them completes the result. ``None`` (the default) means all files
    :param kwargs: the connection parameters of :class:`~.tasks.PersonalizeTask`, and everything that
        Airflow's ``BaseOperator`` takes. All parameters above are templated.

    .. seealso:: https://docs.aws.amazon.com/personalize/latest/dg/getting-user-segments.html
    """

    template_fields: Sequence[str] = (
        "job_arn",
        "output_path",
        "max_error_rate",
        "output_file",
        *CONNECTION_FIELDS,
    )

    def __init__(
        self,
        *,
        job_arn: str,
        output_path: str,
        max_error_rate: float | str = 0.0,
        output_file: str | None = None,
        aws_conn_id: str | None = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            aws_conn_id=aws_conn_id,
            region_name=region_name,
            verify=verify,
            botocore_config=botocore_config,
            **kwargs,
        )
        self.job_arn = job_arn
        self.output_path = output_path
        self.max_error_rate = max_error_rate
        self.output_file = output_file
        # A template that finds nothing must not mean all files.
        self._is_for_one_file = output_file is not None

    @property
    def arn_region(self) -> str:
        """The region in ``job_arn``."""
        from airflow_provider_personalize_segments.arns import parse_job_arn

        return parse_job_arn(self.job_arn, self.kind, source=self.source_of("job_arn")).region

    def execute(self, context: Context) -> dict[str, Any]:
        """Convert, and make the result visible once it is complete."""
        with self.told_failure():
            result = self._write()
            if self.outlets:
                from airflow_provider_personalize_segments.watching.assets import emit_table

                emit_table(context, self.outlets, self.job_arn, result, self.log)
            return result

    def _write(self) -> dict[str, Any]:
        from airflow_provider_personalize_segments.errors import (
            ExtraNotInstalledError,
            fail_on_invalid_parameters,
        )
        from airflow_provider_personalize_segments.parameters import read_folder, read_share, read_text

        with fail_on_invalid_parameters():
            output_path = read_folder(self.output_path, self.source_of("output_path"))
            if output_path is None:
                raise ValueError(f"{self.source_of('output_path')} is empty. Expected a folder.")
            output_file = read_text(self.output_file, self.source_of("output_file"))
            if output_file is None and self._is_for_one_file:
                raise ValueError(
                    f"{self.source_of('output_file')} is empty. Expected a file of the job's output; leave "
                    "the parameter out to convert all files."
                )
            limit = read_share(self.max_error_rate, self.source_of("max_error_rate"))
            if self.outlets:
                # Not at the top: few tasks have outlets.
                from airflow_provider_personalize_segments.watching.assets import check_folder

                check_folder(self.outlets, output_path, self.source_of("output_path"))
        hook = self.hook
        try:
            from airflow_provider_personalize_segments.output.publishing import write_tables
        except ModuleNotFoundError as error:
            raise ExtraNotInstalledError(str(error.name).partition(".")[0], "parquet") from None
        return write_tables(hook, self.job_arn, output_path, output_file, limit or 0.0, self.log)
