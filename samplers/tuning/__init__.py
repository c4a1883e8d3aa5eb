"""Tuning a pruning schedule offline, on scores of candidates that were all finished once."""

from samplers.tuning.config import TuneConfig
from samplers.tuning.omega import Omega
from samplers.tuning.pool import Equivalent, best_of_n_curve, equivalent_count
from samplers.tuning.ranking import RankingQuality, ranking_quality
from samplers.tuning.recommendation import Recommendation
from samplers.tuning.recordings import RewardScores, ScoreTensors, read_scores
from samplers.tuning.search import tune
from samplers.tuning.simulation import Draws, simulate

__all__ = [
    "Draws",
    "Equivalent",
    "Omega",
    "RankingQuality",
    "Recommendation",
    "RewardScores",
    "ScoreTensors",
    "TuneConfig",
    "best_of_n_curve",
    "equivalent_count",
    "ranking_quality",
    "read_scores",
    "simulate",
    "tune",
]
