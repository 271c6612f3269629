"""The charts, each from plain rows to Vega-Lite."""

from sparcom_jax.report.charts.bars import CHANGES, changed, changed_by_layer
from sparcom_jax.report.charts.curves import lines, profiles
from sparcom_jax.report.charts.matrices import combinations, heatmaps, strips
from sparcom_jax.report.charts.points import draws, effects, intervals
from sparcom_jax.report.charts.style import Spec

__all__ = [
    "CHANGES",
    "Spec",
    "changed",
    "changed_by_layer",
    "combinations",
    "draws",
    "effects",
    "heatmaps",
    "intervals",
    "lines",
    "profiles",
    "strips",
]
