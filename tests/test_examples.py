"""The names that users call most have an example in their docstring, and every example in a docstring runs."""

import doctest
from importlib import import_module

import pytest
from test_house import MODULES

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
FINDER = doctest.DocTestFinder(recurse=True)

NAMES = {
    "emg_lens": "AttentionView CutMLP EdgeCut EdgeSet EncoderConfig HookedBiosignalEncoder IsoNet IsoNetConfig"
    " PretrainingRecipe Recording Replace ResampleEdges Shuffle Study SweepResult TokenLayout TrainingRecipe TrialSet"
    " Condition adapt attention_view attribute audit build_model cls_edges cross_modal cut cut_mlp cutting"
    " edges_from_mask every find_circuit fit flow head_masks lag layer_masks"
    " load_dataset load_trials modality_mass none parse_edges positions preprocess reach"
    " replace same_channel same_patch self_edges sweep unimodal",
    "emg_lens.hooks": "CutReport shuffle",
    "emg_lens.data": "Batch InputStatistics Segment Recipe leakage_report SubjectSplit RepetitionSplit register",
    "emg_lens.models": "TinyMyo TorchModel detect_rope_mode",
    "emg_lens.decoding": "NearestPhone base_rate_events beam_decode beam_hypotheses decode_events event_rates"
    " greedy_decode griffin_lim lexicon_coverage matched_threshold score_event_conditions score_text_conditions"
    " shuffled_emissions shuffled_labels texts_by_duration",
    "emg_lens.scoring": "ConditionScores measure add_metric by_gesture character_errors cler comparable_text"
    " confused_pairs dtw_path score_phoneme_conditions"
    " event_scores event_table match_events paired_bootstrap phoneme_confusions phoneme_table word_errors",
    "emg_lens.analysis": "activation_shift check_augmentation check_model compare_ablations compiled_encoder"
    " direct_effects patch_paths"
    " IntegerSoftmax export_onnx profile quantised quantised_edges random_edges model_costs readout_vectors",
    "emg_lens.studies": "StudyResult compare catalogue",
}
"""The names that users call most, by the package that they are imported from."""
PUBLIC = [f"{package}.{name}" for package, names in NAMES.items() for name in names.split()]


@pytest.mark.parametrize("name", PUBLIC)
def test_a_name_that_users_call_has_an_example(name):
    package, _, attribute = name.rpartition(".")
    documented = getattr(import_module(package), attribute)
    examples = [test for test in FINDER.find(documented, name) if test.examples]
    assert examples, f"{name} has no example (>>>) in its docstring"


@pytest.mark.parametrize("name", [name for name, path in MODULES.items() if ">>> " in path.read_text()])
def test_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module, runner = import_module(name), doctest.DocTestRunner(optionflags=FLAGS)
    report = []
    for test in FINDER.find(module, name):
        runner.run(test, out=report.append)
    assert not runner.failures, "".join(report)
