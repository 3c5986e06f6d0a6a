"""Python 3.11.0 to 3.11.4 go on in the wrong place after a possessive group that failed in its middle."""

import re

from airflow_provider_personalize_segments.output.patterns import REPEATED


def test_a_repetition_that_fails_in_its_middle_ends_where_it_began():
    numbers = re.compile(rb"(?:\d*+(?:\.\d*+)" + REPEATED + rb",)" + REPEATED)
    assert numbers.match(b"1.5,2.5,3.5").end() == len("1.5,2.5,")
