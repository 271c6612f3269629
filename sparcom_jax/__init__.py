"""Find the neurons and experts that carry instruction following in large language models.

A model directory, a run and instructions are given as they are or by their path, units by their name:

import sparcom_jax as sj
sj.convert("hf/base", "models/base")  # a checkpoint to Flax
run = sj.capture("models/base", "hexainst", "runs/base")  # counts of every neuron and expert
sets = sj.identify(run, epsilon=0.05)  # S(i), of every instruction
(units,) = sj.select("runs/base", sj.SelectSettings(selector="auroc", size=400))  # of every category
units.table("MATH", top=20)  # pandas: names, scores and ranks
run.dataset()["mlp/positive_count"].sel(category="MATH", layer=12)  # xarray, lazy
sj.evaluate(run, "results/evaluate")  # tables: generality, uniqueness
sj.ablate("models/base", run, "auroc", "results/ablate")  # what breaks without them
sj.explore("models/base", run, "auroc")  # a card of each of the first units
sj.activations("models/base", "What is 17 + 25?", layers=[12])  # of one prompt, token by token
sj.report("results", "report.html")

Settings are dataclasses: `sj.capture(..., sj.CaptureSettings(template="chat"), execution=sj.ExecutionSettings())`. What
is at fault is raised as `sj.InputError`, in one line.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from sparcom_jax.analysis.settings import (
    AgreeSettings,
    AlignSettings,
    CompareSettings,
    EvaluateSettings,
    SweepSettings,
)
from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.settings import AblationSettings, AnswerSettings, SteerSettings
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.identify.select import identify
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import load_hexainst, load_instructions
from sparcom_jax.select.select import select
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.explored import open_explored
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.sets import Sets, open_sets
from sparcom_jax.store.units import open_units
from sparcom_jax.tune.settings import TuneSettings, TuningsSettings
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.version import VERSION as __version__

if TYPE_CHECKING:
    from sparcom_jax.analysis.agree import agree
    from sparcom_jax.analysis.align import align
    from sparcom_jax.analysis.compare import compare
    from sparcom_jax.analysis.evaluate import evaluate
    from sparcom_jax.analysis.sweep import sweep
    from sparcom_jax.attribution.attribute import attribute
    from sparcom_jax.capture.capture import capture
    from sparcom_jax.causal.ablate import ablate
    from sparcom_jax.causal.answers import answer
    from sparcom_jax.causal.generate import Steering, generate
    from sparcom_jax.causal.steer import steer
    from sparcom_jax.causal.transfer import transfer
    from sparcom_jax.convert.export import export
    from sparcom_jax.convert.model_dir import convert, open_model
    from sparcom_jax.edit.edit import edit
    from sparcom_jax.explore.explore import explore
    from sparcom_jax.explore.prompt import activations
    from sparcom_jax.report.page import report
    from sparcom_jax.tune.finetune import finetune
    from sparcom_jax.tune.tunings import tunings

__all__ = [
    "AblationSettings",
    "AgreeSettings",
    "AlignSettings",
    "AnswerSettings",
    "AttributeSettings",
    "CaptureSettings",
    "CompareSettings",
    "EditSettings",
    "EvaluateSettings",
    "ExecutionSettings",
    "ExploreSettings",
    "InputError",
    "Run",
    "SelectSettings",
    "Selection",
    "Sets",
    "SteerSettings",
    "Steering",
    "SweepSettings",
    "TuneSettings",
    "TuningsSettings",
    "UnitSet",
    "__version__",
    "ablate",
    "activations",
    "agree",
    "align",
    "answer",
    "attribute",
    "capture",
    "compare",
    "convert",
    "edit",
    "evaluate",
    "explore",
    "export",
    "finetune",
    "generate",
    "identify",
    "load_hexainst",
    "load_instructions",
    "open_explored",
    "open_model",
    "open_run",
    "open_sets",
    "open_units",
    "report",
    "select",
    "steer",
    "sweep",
    "transfer",
    "tunings",
]

LAZY = {
    "ablate": "causal.ablate",
    "activations": "explore.prompt",
    "agree": "analysis.agree",
    "align": "analysis.align",
    "answer": "causal.answers",
    "attribute": "attribution.attribute",
    "capture": "capture.capture",
    "compare": "analysis.compare",
    "convert": "convert.model_dir",
    "edit": "edit.edit",
    "evaluate": "analysis.evaluate",
    "export": "convert.export",
    "explore": "explore.explore",
    "finetune": "tune.finetune",
    "Steering": "causal.generate",
    "generate": "causal.generate",
    "open_model": "convert.model_dir",
    "report": "report.page",
    "steer": "causal.steer",
    "sweep": "analysis.sweep",
    "transfer": "causal.transfer",
    "tunings": "tune.tunings",
}
"""Where those are that bring jax, scipy or charts, which `import sparcom_jax` does not."""

# A package that has the name of a function would take its place when it is first imported; so that is done here.
for _name in LAZY.keys() & {module.partition(".")[0] for module in LAZY.values()}:
    import_module(f"{__name__}.{_name}")
    del globals()[_name]


def __getattr__(name: str) -> Any:
    """Imports a function of `LAZY` when it is first used."""
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{LAZY[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
