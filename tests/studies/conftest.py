"""One small finished run, which tests of views share."""

import pytest
import yaml
from tiny import NO_CONDITIONS, TINY

from emg_lens.studies.result import StudyResult
from emg_lens.studies.study import Study


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> StudyResult:
    """Two seeds of the tiny study without conditions, and the views of its outputs; for reading only."""
    content = yaml.safe_load(TINY) | {"factors": {"seed": 2}, "conditions": NO_CONDITIONS}
    content["views"] = ["roc", "confusion", "training"]
    return Study.parse(yaml.safe_dump(content)).run(out=tmp_path_factory.mktemp("runs"), jobs=1)
