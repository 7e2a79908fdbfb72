"""The smallest real study: three simulated subjects, a two-layer IsoNet, a few seconds."""

TINY = """
name: tiny
title: A tiny study
cohort:
  dataset: simulated
  options:
    simulation: {n_subjects: 3, emg_classes: 2, acc_classes: 2, joint_classes: 1, trials_per_class: 2, n_repetitions: 4}
  recipe:
    signals:
      emg: [{step: rectify}, {step: lowpass, cutoff_hz: 4}]
      acc: [{step: lowpass, cutoff_hz: 4}]
    fs: 20
  segment: {start_s: 0.5, stop_s: 1.5}
split: {by: repetition, train: [1, 3], test: [2, 4]}
model: {d_model: 16, n_heads: 2, n_layers: 2, d_mlp: 16}
training: {epochs: 4, batch_size: 16, lr: 0.003, anneal_epochs: 2}
conditions:
  layer_masks: {}
  removals: null
  extra:
    - {name: ACC masked, edges: "flow('acc', 'cls') | flow('acc', 'emg')", sees: [emg]}
"""

NO_CONDITIONS = {"layer_masks": None, "removals": None, "controls": None}


def all_fits(study, data=None):
    """The fits of a study on its data."""
    from emg_lens.data.registry import subjects
    from emg_lens.studies.fits.fit_unit import fits_of

    names = [subjects(spec.cohort.dataset, data, **spec.cohort.options) for _, spec in study.cells]
    return fits_of(study, names)
