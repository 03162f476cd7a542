"""There is one example job per algorithm, and the API accepts each."""

from pathlib import Path

import pytest

from controlplane.jobs.spec import JobSpec
from examples.algorithms.jobs import ALGORITHMS, spec
from tests.unit.trainers.test_algorithm_config import NAMES


def test_no_algorithm_is_without_an_example() -> None:
    assert sorted(ALGORITHMS) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_a_valid_job_that_survives_the_way_to_the_driver(name: str, tmp_path: Path) -> None:
    job = JobSpec.model_validate(spec(name, tmp_path))
    assert job.algorithm.name == name
    assert JobSpec.model_validate(job.model_dump(mode="json")) == job
