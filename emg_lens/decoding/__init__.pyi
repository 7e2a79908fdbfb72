from .ctc import beam_decode, beam_hypotheses, greedy_decode
from .events import decode_events
from .prefix_beam import Hypothesis
from .thresholds import EventComparison, MatchedThreshold, matched_threshold, score_event_conditions

__all__ = [
    "EventComparison",
    "Hypothesis",
    "MatchedThreshold",
    "beam_decode",
    "beam_hypotheses",
    "decode_events",
    "greedy_decode",
    "matched_threshold",
    "score_event_conditions",
]
