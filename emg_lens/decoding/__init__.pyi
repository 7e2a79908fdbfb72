from .events import decode_events
from .thresholds import EventComparison, MatchedThreshold, matched_threshold, score_event_conditions

__all__ = [
    "EventComparison",
    "MatchedThreshold",
    "decode_events",
    "matched_threshold",
    "score_event_conditions",
]
