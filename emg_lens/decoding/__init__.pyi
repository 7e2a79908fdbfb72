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
from .text_conditions import score_text_conditions
from .thresholds import EventComparison, MatchedThreshold, matched_threshold, score_event_conditions

__all__ = [
    "EventComparison",
    "Hypothesis",
    "LexiconCoverage",
    "MatchedThreshold",
    "base_rate_events",
    "beam_decode",
    "beam_hypotheses",
    "decode_events",
    "event_rates",
    "greedy_decode",
    "lexicon_coverage",
    "matched_threshold",
    "score_event_conditions",
    "score_text_conditions",
    "shuffled_emissions",
    "shuffled_labels",
    "texts_by_duration",
]
