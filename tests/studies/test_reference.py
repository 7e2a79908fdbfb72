"""Published numbers next to those of a study."""

import numpy as np
import pytest
import yaml
from synthetic import by_factors, findings_of
from tiny import TINY

from emg_lens.errors import EmgLensError
from emg_lens.studies.report.views.published import layout_published, published_rows
from emg_lens.studies.spec.errors import StudyError
from emg_lens.studies.statistics.intervals import mean_interval
from emg_lens.studies.study import Study

SENSORS = {"sensors": {"both": {}, "emg": {"cohort": {"modalities": ["emg"]}}}}


def study(*rows: dict, factors: object = None, **reference: object) -> Study:
    given = {"source": "Somebody 2025, Table 1", "rows": list(rows)} | reference
    content = yaml.safe_load(TINY) | {"reference": given, "factors": factors or {}}
    return Study.parse(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize(
    ("rows", "factors", "reference", "message"),
    [
        ([{"value": 0.5, "at": {"sensor": "emg"}}], SENSORS, {}, "expected one level of each of"),
        ([{"value": 0.5}], SENSORS, {}, "expected one level of each of"),
        (
            [{"value": 0.5, "at": {"sensors": "acc"}}],
            SENSORS,
            {},
            "factor 'sensors' has no level 'acc'; known: both, emg",
        ),
        ([{"value": 0.5}, {"value": 0.6}], None, {}, "lists baseline twice"),
        ([{"value": 0.5}], None, {"metric": "acuracy"}, "reference.metric='acuracy'"),
        ([{"value": 95.0}], None, {}, "accuracy=95; expected a fraction from 0 to 1"),
        ([{"value": 0.5, "stars": "+"}], None, {}, "stars"),
        ([{"valu": 0.5}], None, {}, "value"),
        ([], None, {}, "rows"),
    ],
)
def test_numbers_that_no_table_shows_are_refused_with_the_file(rows, factors, reference, message):
    with pytest.raises(StudyError, match=message) as error:
        study(*rows, factors=factors, **reference)
    assert "\n" not in str(error.value)


def test_a_condition_or_metric_that_the_study_lacks_is_refused_before_anything_is_fitted(tmp_path):
    message = r"no condition 'unimodal/individual/L9'; did you mean 'unimodal/individual/L\d'\? known: baseline, unim"
    with pytest.raises(EmgLensError, match=message):
        study({"value": 0.5, "condition": "unimodal/individual/L9"}).run(out=tmp_path, jobs=1)
    with pytest.raises(EmgLensError, match="'rmse' is not measured"):
        study({"value": 0.5}, metric="rmse").run(out=tmp_path, jobs=1)
    assert not list(tmp_path.iterdir())


def test_published_numbers_change_no_digest_and_survive_writing():
    one = study({"value": 0.5})
    assert one.digest() == Study.parse(TINY).digest()
    assert Study.parse(one.to_yaml()).reference == one.reference


def test_a_difference_has_the_interval_of_the_mean_here():
    values = {("both",): [0.9, 0.8, 0.95, 0.7, 0.85, 0.9], ("emg",): [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]}
    rows = [{"value": 0.9776, "at": {"sensors": "both"}}, {"value": 0.6992, "at": {"sensors": "emg"}, "stars": "***"}]
    reference = {"source": "Somebody 2025, Table 1", "rows": rows}
    findings = findings_of(by_factors(values, ["sensors"]), factors=SENSORS, reference=reference)
    first, second = published_rows(findings).to_dict("records")
    low, high = mean_interval(np.array(values["both",]), 0.95, (0, 1))
    assert first["difference"] == pytest.approx(100 * (0.85 - 0.9776))
    assert (first["ci_low"], first["ci_high"]) == pytest.approx((100 * (low - 0.9776), 100 * (high - 0.9776)))
    table = layout_published(findings)
    assert table["Paper"].tolist() == ["0.978", "0.699"] and table["Here"].tolist() == ["0.850", "0.500"]
    assert table["Here − paper, pp [95 % CI]"].tolist()[1] == "−19.9" and second["paper_stars"] == "***"


def test_tables_have_a_column_of_published_numbers(tmp_path):
    rows = [
        {"value": 0.914},
        {"value": 0.909, "condition": "unimodal/individual/L1", "stars": "ns"},
        {"value": 0.5, "condition": "ACC masked"},
    ]
    result = study(*rows).run(out=tmp_path, jobs=1)
    table = result.tables()["Layer by layer"]
    assert table[("Individual", "Paper")].tolist() == ["0.909", "–", "–", "–", "0.914"]
    single = result.tables()["Single conditions"].set_index("Condition")["Paper"]
    assert single.to_dict() == {"ACC masked": "0.500", "Baseline": "0.914"}
    table = result.tables()["Comparison with published numbers"]
    assert table["Condition"].tolist() == ["Baseline", "unimodal/individual/L1", "ACC masked"]
    assert "Somebody 2025, Table 1" in result.report()
