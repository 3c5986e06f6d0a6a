"""What a user gets who installs the wheel and nothing else; run by .ci/run in an environment of its own."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import airflow_provider_personalize_segments as package

folder = Path(package.__file__).parent
assert "site-packages" in folder.parts, folder
examples = sorted(path.name for path in (folder / "example_dags").glob("*.py"))
assert len(examples) >= 3, examples
assert (folder / "py.typed").exists()
assert not [name for name in ("standalone", "world") if (folder / "testing" / f"{name}.py").exists()]
told = "nothing, though nobody asked for moto"
try:
    import_module(f"{package.__name__}.testing")
except ImportError as error:
    told = str(error)
assert "pip install 'airflow-provider-personalize-segments[testing]'" in told, told
# OpenLineage is not there, and nobody misses it.
assert find_spec("airflow.providers.openlineage") is None
sensor = import_module(f"{package.__name__}.sensors").PersonalizeBatchSegmentJobSensor(
    task_id="wait", job_arn="arn:aws:personalize:us-east-1:123456789012:batch-segment-job/weekly"
)
assert f"{package.__name__}.lineage" not in sys.modules
assert sensor.get_openlineage_facets_on_start() is None
print("The wheel carries", ", ".join(examples))
