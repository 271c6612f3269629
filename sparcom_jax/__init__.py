"""Find the neurons and experts that carry instruction following in large language models.

import sparcom_jax as sj
run = sj.open_run("outputs/run")
sets = sj.identify(run, epsilon=0.05)
(units,) = sj.select(run, sj.SelectSettings(selector="auroc"))
"""

from typing import TYPE_CHECKING, Any

from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.identify.select import identify
from sparcom_jax.instructions.rows import load_hexainst, load_instructions
from sparcom_jax.select.select import select
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.explored import open_explored
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.sets import Sets, open_sets
from sparcom_jax.store.units import open_units
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.version import VERSION as __version__

if TYPE_CHECKING:
    from sparcom_jax.attribution.attribute import attribute
    from sparcom_jax.explore.explore import explore

__all__ = [
    "AttributeSettings",
    "ExploreSettings",
    "Run",
    "SelectSettings",
    "Sets",
    "UnitSet",
    "__version__",
    "attribute",
    "explore",
    "identify",
    "load_hexainst",
    "load_instructions",
    "open_explored",
    "open_run",
    "open_sets",
    "open_units",
    "select",
]


def __getattr__(name: str) -> Any:
    """`attribute` and `explore` bring jax, which `import sparcom_jax` does not."""
    if name == "attribute":
        from sparcom_jax.attribution.attribute import attribute

        return attribute
    if name == "explore":
        from sparcom_jax.explore.explore import explore

        return explore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
