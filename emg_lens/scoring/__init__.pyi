from .detection import by_gesture, cler, event_scores, event_table
from .event_matching import ScoreError, match_events
from .metric_registry import Metric, MetricError, OutputKind, add_metric
from .metrics import METRICS, chances, measure
from .phonemes import confused_pairs, phoneme_confusions, phoneme_table
from .score_table import CountScore, ScoreTable, paired_bootstrap
from .text_errors import character_errors, comparable_text, word_errors
from .time_warping import dtw_path

__all__ = [
    "METRICS",
    "CountScore",
    "Metric",
    "MetricError",
    "OutputKind",
    "ScoreError",
    "ScoreTable",
    "add_metric",
    "by_gesture",
    "chances",
    "character_errors",
    "cler",
    "confused_pairs",
    "dtw_path",
    "event_scores",
    "event_table",
    "match_events",
    "measure",
    "paired_bootstrap",
    "phoneme_confusions",
    "phoneme_table",
    "comparable_text",
    "word_errors",
]
