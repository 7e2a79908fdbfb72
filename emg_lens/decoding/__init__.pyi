from .controls import (
    LexiconCoverage,
    base_rate_events,
    event_rates,
    lexicon_coverage,
    shuffled_emissions,
    shuffled_labels,
    texts_by_duration,
)
from .ctc import beam_decode, beam_hypotheses, greedy_decode
from .events import decode_events
from .prefix_beam import Hypothesis
from .recognisers import RECOGNISERS, NearestPhone, Recogniser
from .text_conditions import score_text_conditions
from .thresholds import EventComparison, MatchedThreshold, matched_threshold, score_event_conditions
from .vocoders import VOCODERS, GriffinLim, Vocoder, griffin_lim

__all__ = [
    "RECOGNISERS",
    "VOCODERS",
    "EventComparison",
    "GriffinLim",
    "Hypothesis",
    "LexiconCoverage",
    "MatchedThreshold",
    "NearestPhone",
    "Recogniser",
    "Vocoder",
    "base_rate_events",
    "beam_decode",
    "beam_hypotheses",
    "decode_events",
    "event_rates",
    "greedy_decode",
    "griffin_lim",
    "lexicon_coverage",
    "matched_threshold",
    "score_event_conditions",
    "score_text_conditions",
    "shuffled_emissions",
    "shuffled_labels",
    "texts_by_duration",
]
