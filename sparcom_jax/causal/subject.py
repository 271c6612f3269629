"""What an ablation acts on, and which of the instructions that it could measure chose it.

Axis legend: C categories, I instructions of the run that is measured.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.causal.targets import cores_of_a_set
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.progress import say
from sparcom_jax.store.run import Run
from sparcom_jax.store.units import require_of_run
from sparcom_jax.units.unit_set import UnitSet

ARCHITECTURE = ("family", "num_layers", "hidden_size", "num_experts_per_tok")
"""Fields of a run's model that two models of one architecture share."""


@dataclass(frozen=True, eq=False)
class Subject:
    """Units to act on.

    Attributes:
      units: of the categories of the run that is measured, in its order.
      chose: which of its instructions chose them; None: all, so that none can be held out.
      told: what the summary says of them.
    """

    units: UnitSet
    chose: Bool[np.ndarray, "I"] | None
    told: dict[str, Any]


def own_subject(run: Run, units: UnitSet) -> Subject:
    """Units that the run which is measured chose itself.

    Args:
      run: the run.
      units: the units.

    Raises:
      InputError: they are of another run.
    """
    require_of_run(run, units)
    half = units.origin["half"]
    chose = None if half is None else np.isin([row["id"] for row in run.instructions], half)
    told = {"set": units.origin["set"]} if cores_of_a_set(units) else {"units": {"run": run.address, **units.record()}}
    return Subject(units, chose, told)


def foreign_subject(run: Run, units_run: Run, units: UnitSet) -> Subject:
    """Units that another run chose: of other instructions, or of another model of the same architecture.

    An instruction of the run that is measured counts as one that chose them if its id or its text is that of one which
    did. Categories of the units that the run does not have are left out.

    Args:
      run: the run that is measured.
      units_run: the run that chose the units.
      units: the units.

    Raises:
      InputError: the units are not of `units_run`, the models differ in architecture, or the units lack a category of
        the run.
    """
    units_run.require_complete()
    require_of_run(units_run, units)
    _require_one_architecture(run, units_run)
    where = f"{units_run.location}: {units.title}"
    if lacking := [name for name in run.categories if name not in units.categories]:
        raise InputError(f"{where} are of {', '.join(units.categories)}; {run.location} has {first_of(lacking)} "
                         f"besides, for which there are none")  # fmt: skip
    if unused := [name for name in units.categories if name not in run.categories]:
        say(f"{where}: those of {first_of(unused)} are left out: {run.location} has no such instructions")
    half = units.origin["half"]
    chose = [row for row in units_run.instructions if half is None or row["id"] in {*half}]
    ids, texts = {row["id"] for row in chose}, {row["instruction"] for row in chose}
    seen = np.asarray([row["id"] in ids or row["instruction"] in texts for row in run.instructions])
    say(f"{run.location}: {np.count_nonzero(seen)} of {len(seen)} instructions are among those that chose the units")
    order = [list(units.categories).index(name) for name in run.categories]
    score, mask = ({group: one[order] for group, one in of.items()} for of in (units.score, units.mask))
    model, instructions = units_run.manifest.model, units_run.manifest.instructions
    told = {
        "units": {"run": units_run.address, **units.record()},
        "units_from": {
            "model": {"family": model.family, "source": model.source, "digest": model.digest},
            "instructions": {"source": instructions.source, "digest": instructions.digest},
            "categories": list(units.categories),
            "instructions_in_common": int(np.count_nonzero(seen)),
        },
    }
    return Subject(UnitSet(run.categories, units.groups, score, mask, units.origin, units.name), seen, told)


def _require_one_architecture(run: Run, units_run: Run) -> None:
    for field in ARCHITECTURE:
        one, other = (getattr(of.manifest.model, field) for of in (run, units_run))
        if one != other:
            raise InputError(f"{units_run.location}: its model is of another architecture than that of {run.location}: "
                             f"{field} {other}, not {one}")  # fmt: skip
    for name in {**run.groups, **units_run.groups}:
        if (one := run.groups.get(name)) != (other := units_run.groups.get(name)):
            raise InputError(f"{units_run.location}: its model is of another architecture than that of {run.location}: "
                             f"units {name} {other and other.to_json()}, not {one and one.to_json()}")  # fmt: skip
