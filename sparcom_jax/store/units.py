"""The units of categories that are stored beside a run, below `RUN/units`."""

from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.schema import SCHEMA_VERSION, ArraySpec, require_name
from sparcom_jax.units.bits import pack, unpack
from sparcom_jax.units.file import to_safetensors
from sparcom_jax.units.groups import Group
from sparcom_jax.units.unit_set import BESIDE_THE_ORIGIN, UnitSet

FILE = ".safetensors"


def units_path(name: str) -> str:
    """Path of a unit set below its run; its file lies beside it, with `.safetensors` added."""
    return f"units/{name}"


def unit_set_arrays(name: str, group: Group, categories: int) -> list[ArraySpec]:
    """The arrays of one group of a unit set: a category is written, and a layer of it read, alone.

    Args:
      name: name of the unit set.
      group: the units.
      categories: number of categories C.
    """
    path = f"{units_path(name)}/{group.name}"
    return [
        ArraySpec(f"{path}/{array}", dtype, (categories, *shape), ("category", *dims), (1, *shape), (1, 1, *shape[1:]))
        for array, dtype, shape, dims in (
            ("score", "float32", group.shape, group.dimension_names),
            ("mask", "uint8", group.packed_shape, group.packed_dimension_names),
        )
    ]


def origin_of(run: Run, selector: str, *, size: int | None = None, half: list[str] | None = None,
              seed: int | None = None, **more: Any) -> dict[str, Any]:  # fmt: skip
    """Where units come from that were chosen by what a run holds.

    Args:
      run: the run.
      selector: what chose them.
      size: how many units it was to choose.
      half: the ids of the instructions that it saw; None for all.
      seed: of its draws.
      **more: what else decided, as plain JSON.
    """
    return {"selector": selector, "size": size, "half": half, "seed": seed, "run_digest": run.digest, **more}


def write_units(run: Run, name: str, unit_set: UnitSet) -> None:
    """Stores a unit set beside the run that it was chosen by, as arrays and as one file; it replaces one of that name.

    The attributes are written last: without them there is no such unit set.

    Args:
      run: the run.
      name: name of the unit set, below `units/`.
      unit_set: the units.

    Raises:
      InputError: the name cannot be one, the units are of another run, or the store fails.
    """
    require_name(name)
    if FILE in name:
        raise InputError(f"name {name!r} must not hold {FILE!r}, which the file of a unit set ends with")
    require_of_run(run, unit_set)
    path, store = units_path(name), run.store
    for stale in (f"{path}/zarr.json", f"{path}/", f"{path}{FILE}"):
        store.delete_prefix(stale)
    store.write_group("units")
    writing = []
    for group in unit_set.groups.values():
        store.write_group(f"{path}/{group.name}")
        values = {"score": unit_set.score[group.name], "mask": pack(unit_set.mask[group.name])}
        for spec in unit_set_arrays(name, group, len(unit_set.categories)):
            writing.append(store.create_array(spec).write(values[spec.name.split("/")[-1]]))
    for future in writing:
        finished(future, run.location)
    store.write(f"{path}{FILE}", to_safetensors(unit_set))
    attributes = {"schema_version": SCHEMA_VERSION, "categories": list(unit_set.categories),
                  "groups": list(unit_set.groups), "digest": unit_set.digest, **unit_set.origin}  # fmt: skip
    store.write_group(path, attributes)


def open_units(run: Run | str | Path, name: str) -> UnitSet:
    """Reads a unit set of a run.

    Raises:
      InputError: the run has no such unit set, it is unfinished, of another run, or not as it was written.
    """
    run = as_run(run)
    attributes = run.store.read_attributes(units_path(name))
    if attributes is None:
        raise InputError(f"{run.location}: no units {name!r}; the run has {', '.join(unit_names(run.store)) or 'none'}")
    where = f"{run.location}/{units_path(name)}"
    if attributes.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}/zarr.json: schema_version is {attributes.get('schema_version')!r}, this version "
                         f"reads {SCHEMA_VERSION}; write the units again")  # fmt: skip
    names = attributes.get("groups")
    if not isinstance(names, list) or not {*map(str, names)} <= run.groups.keys():
        raise InputError(f"{where}/zarr.json: field 'groups' is {names!r}, the run has {', '.join(run.groups)}")
    groups = {group: run.groups[group] for group in names}
    score = {group: run.read(f"{units_path(name)}/{group}/score") for group in groups}
    mask = {group: unpack(run.read(f"{units_path(name)}/{group}/mask"), of.shape[-1]) for group, of in groups.items()}
    origin = {field: value for field, value in attributes.items() if field not in BESIDE_THE_ORIGIN}
    try:
        units = UnitSet(attributes.get("categories") or [], groups, score, mask, origin, name)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    require_of_run(run, units)
    if units.digest != attributes.get("digest"):
        raise InputError(f"{where}: scores, masks or attributes are not as they were written; write the units again")
    return units


def as_units(run: Run, units: UnitSet | str) -> UnitSet:
    """A unit set, which is read where it is given by its name, below `units/` of a run.

    Raises:
      InputError: as `open_units`.
    """
    return units if isinstance(units, UnitSet) else open_units(run, units)


def require_of_run(run: Run, unit_set: UnitSet) -> None:
    """Refuses units that were not chosen by a run, or are not of its categories and groups.

    Raises:
      InputError: they are another run's.
    """
    if unit_set.origin.get("run_digest") != run.digest:
        raise InputError(f"{run.location}: {unit_set.title} were chosen by another run (of another model, or of other "
                         f"instructions or settings)")  # fmt: skip
    if list(unit_set.categories) != run.categories:
        raise InputError(f"{run.location}: {unit_set.title} are of the categories {', '.join(unit_set.categories)}, "
                         f"the run has {', '.join(run.categories)}")  # fmt: skip
    for name, group in unit_set.groups.items():
        if run.groups.get(name) != group:
            raise InputError(f"{run.location}: {unit_set.title} have a group {name} that is not the run's")


def unit_names(store: Store) -> list[str]:
    """Names of the finished unit sets of a run."""
    return store.group_names("units")
