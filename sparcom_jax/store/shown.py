"""What a run, its sets and its attributions show of themselves."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparcom_jax.display import Display, counts
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.store.explored import explored_names
from sparcom_jax.store.manifest import changed_capture
from sparcom_jax.units.groups import shapes

if TYPE_CHECKING:
    from sparcom_jax.store.attribution import Attribution
    from sparcom_jax.store.run import Run
    from sparcom_jax.store.sets import Sets

MOST_NAMES = 12


def show_run(run: "Run") -> Display:
    """The model, its units, the instructions, how it was captured, and what was made of it."""
    manifest = run.manifest
    model, tokens = manifest.model, manifest.tokens
    fields = [
        ("model", f"{model.family}, {model.parameters:,} parameters, {model.num_layers} layers of width "
                  f"{model.hidden_size:,} ({model.source})"),
        ("groups", shapes(run.groups.values())),
        ("instructions", f"{manifest.instructions.source}: {_by_category(run)}"),
        *([("tokens", f"{tokens.counted:,} counted, {tokens.fed:,} fed")] if tokens else []),
        ("capture", _pairs(changed_capture(manifest.capture).items()) or "as by default"),
        *([("keeps sets", _pairs(run.selection.items()))] if run.selection else []),
        ("computed", f"in {manifest.dtype} on {manifest.devices.platform}"),
    ]  # fmt: skip
    try:
        fields += [
            ("sets", _names(run.store.group_names("sets"))),
            ("units", _names(run.store.group_names("units"))),
            ("attribution", _names(run.store.group_names("attribution"))),
            ("explored", _names(explored_names(run))),
        ]
    except InputError as error:
        fields.append(("cannot be read", str(error)))
    return Display(f"Run {run.location}", fields)


def show_sets(sets: "Sets") -> Display:
    """How the sets were chosen, and how large they are, by group."""
    rows, fields = [], [("run", sets.run.location), ("selection", _pairs(sets.manifest.selection.items()))]
    try:
        for name, group in sets.groups.items():
            size = sets.size(name)
            median = np.median(size)
            rows.append([name, shapes([group], named=False), f"{median:,.0f} ({median / group.unit_count:.1%})",
                         f"{size.min():,} to {size.max():,}"])  # fmt: skip
    except InputError as error:
        fields.append(("cannot be read", str(error)))
    return Display(f"Sets {sets.name!r}", fields, ["group", "units", "|S(i)| median", "range"], rows)


def show_attribution(attribution: "Attribution") -> Display:
    """The method, the instructions and the groups."""
    attributes = attribution.attributes
    few = attributes["per_category"]
    return Display(f"Attribution {attribution.method!r}", [
        ("run", attribution.run.location),
        ("steps", str(attributes["steps"])),
        ("instructions", f"the first {few:,} of each category" if few else "all"),
        ("groups", shapes(attribution.groups.values())),
    ])  # fmt: skip


def _by_category(run: "Run") -> str:
    count = run.manifest.instructions.count
    try:
        sizes = np.bincount(run.category, minlength=len(run.categories)).tolist()
        missing = int(np.count_nonzero(run.done == 0))
    except InputError:  # the capture has only begun
        return f"{count:,} of {first_of(run.categories, MOST_NAMES)}; not captured yet"
    left = f"; {missing:,} are not captured yet" if missing else ""
    return f"{count:,} ({counts(run.categories, sizes)}){left}"


def _pairs(fields: Iterable[tuple[str, object]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in fields)


def _names(found: Sequence[str]) -> str:
    return first_of(found, MOST_NAMES) or "none"
