from .condition_scores import ConditionScores
from .detection import by_gesture, cler, event_scores, event_table
from .event_matching import ScoreError, match_events
from .frame_metrics import aligned_steps, with_frozen_alignment
from .metric_registry import Metric, MetricError, OutputKind, add_metric
from .metrics import METRICS, chances, measure
from .phoneme_conditions import score_phoneme_conditions
from .phonemes import confused_pairs, phoneme_confusions, phoneme_table
from .score_table import CountScore, ScoreTable, paired_bootstrap
from .text_errors import character_errors, comparable_text, word_errors
from .time_warping import dtw_path
from .token_metrics import edit_distances, greedy_symbols

__all__ = [
    "METRICS",
    "ConditionScores",
    "CountScore",
    "Metric",
    "MetricError",
    "OutputKind",
    "ScoreError",
    "ScoreTable",
    "add_metric",
    "aligned_steps",
    "by_gesture",
    "chances",
    "character_errors",
    "cler",
    "comparable_text",
    "confused_pairs",
    "dtw_path",
    "edit_distances",
    "event_scores",
    "event_table",
    "greedy_symbols",
    "match_events",
    "measure",
    "paired_bootstrap",
    "phoneme_confusions",
    "phoneme_table",
    "score_phoneme_conditions",
    "with_frozen_alignment",
    "word_errors",
]
