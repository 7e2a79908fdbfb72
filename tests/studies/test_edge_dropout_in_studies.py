"""Edge dropout as a key of a study file."""

import numpy as np
import pytest
import yaml
from tiny import NO_CONDITIONS, TINY

from emg_lens.errors import EmgLensError
from emg_lens.studies.study import Study

DROPPED = {"edges": "cross_modal()", "p": 1.0}
NEVER = {"model": {"masked_edges": "cross_modal()"}, "conditions": {"extra": []}}


def study(dropped, **levels):
    levels |= {"dropped": {"training": {"edge_dropout": dropped}}}
    cut = [{"name": "fusion cut", "edges": "cross_modal()"}]
    parts = {"factors": {"fusion": levels}, "conditions": NO_CONDITIONS | {"extra": cut}}
    return Study.parse(yaml.safe_dump(yaml.safe_load(TINY) | parts))


def test_edges_that_are_always_dropped_are_edges_that_the_model_never_had(tmp_path):
    result = study(DROPPED, all={}, never=NEVER).run(out=tmp_path, jobs=1)
    level_of = result.facts.set_index("fit")["fusion"]
    outputs = {}
    for condition in ("baseline", "fusion cut"):
        trials = result.predictions(condition)
        for level, rows in trials.groupby(trials["fit"].map(level_of)):
            outputs[level, condition] = rows.filter(like="output_").to_numpy()
    assert {level for level, _ in outputs} == {"all", "dropped", "never"}
    np.testing.assert_allclose(outputs["dropped", "fusion cut"], outputs["never", "baseline"], atol=1e-4)
    assert (
        np.abs(outputs["dropped", "baseline"] - outputs["never", "baseline"]).max() > 1e-3
    )  # evaluated with all edges
    assert np.abs(outputs["dropped", "fusion cut"] - outputs["all", "fusion cut"]).max() > 1e-3


@pytest.mark.parametrize("edges", ["flow('gyro', 'cls')", "none()"])
def test_edges_that_do_not_fit_are_refused_before_the_training(edges, tmp_path):
    with pytest.raises(EmgLensError, match="at fusion=dropped: edge_dropout"):
        study(DROPPED | {"edges": edges}).run(out=tmp_path, jobs=1)


def test_a_probability_is_checked_when_the_file_is_read():
    with pytest.raises(EmgLensError, match=r"edge_dropout\.p=1\.5"):
        study(DROPPED | {"p": 1.5})
