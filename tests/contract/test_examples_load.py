"""The examples that ship are jobs that the API accepts."""

from pathlib import Path

from controlplane.jobs.spec import JobSpec
from examples.quickstart import job as quickstart


def test_the_quickstart_is_a_valid_job_that_survives_the_way_to_the_driver(tmp_path: Path) -> None:
    spec = JobSpec.model_validate(quickstart.spec(tmp_path))
    again = JobSpec.model_validate(spec.model_dump(mode="json"))
    assert again == spec
    assert spec.model.hf_checkpoint == str(tmp_path / "model")
