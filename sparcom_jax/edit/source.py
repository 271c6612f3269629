"""The checkpoint that is edited, and the units of it."""

from dataclasses import dataclass
from pathlib import Path

from sparcom_jax.convert.checkpoint import Directory, open_directory
from sparcom_jax.convert.model_dir import locate, model_digest
from sparcom_jax.convert.weights import SourceWeights
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import progress
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.units import as_units, require_of_run
from sparcom_jax.units.file import read_safetensors
from sparcom_jax.units.unit_set import UnitSet, require_of_model


@dataclass(frozen=True, eq=False)
class EditedSource:
    """A checkpoint and units of its model.

    Attributes:
      name: what the user called it.
      directory: where it lies.
      opened: its config and its files.
      weights: its tensors as parameters.
      units: the units.
      category: of the one that is edited, its place among the units' categories.
    """

    name: str
    directory: Path
    opened: Directory
    weights: SourceWeights
    units: UnitSet
    category: int

    @property
    def config(self) -> DecoderConfig:
        """The model."""
        return self.opened.config


def open_source(
    source: str | Path, units: UnitSet | str | Path, category: str, run: Run | str | Path | None
) -> EditedSource:
    """Opens a checkpoint that is to be edited.

    Args:
      source: a Hugging Face directory of safetensors, or the id of a model on the hub.
      units: the units, their name below `units/` of the run, or without a run a safetensors file of units.
      category: whose units are edited.
      run: the run that chose the units.

    Raises:
      InputError: the checkpoint is quantised or no directory; the units are of another model, or not of the category.
    """
    directory = locate(str(source))
    if not directory.is_dir():
        raise InputError(f"{source}: is a GGUF file, whose blocks of quantised values cannot hold an edit exactly; "
                         f"edit the Hugging Face directory")  # fmt: skip
    opened = open_directory(directory)
    if opened.hf.quantization is not None:
        raise InputError(f"{source}: is quantised, so that a part of a tensor cannot be set exactly; save the model in "
                         f"floating point")  # fmt: skip
    weights = SourceWeights(opened.config, opened.tensors, str(source))
    found = _units_of(source, opened, weights, units, run)
    if category not in found.categories:
        raise InputError(f"{found.title} have no category {category!r}; they are of {', '.join(found.categories)}")
    return EditedSource(str(source), directory, opened, weights, found, list(found.categories).index(category))


def _units_of(
    source: str | Path, opened: Directory, weights: SourceWeights, units: UnitSet | str | Path,
    run: Run | str | Path | None,
) -> UnitSet:  # fmt: skip
    """The units, of which it is known that they are of this model.

    Raises:
      InputError: they are not.
    """
    if run is not None:
        run = as_run(run)
        units = as_units(run, units if isinstance(units, UnitSet) else str(units))
        require_of_run(run, units)
        with progress("comparing", len(opened.names), "tensors") as bar:
            digest = model_digest(opened.config, weights.hash(bar.advance))
        if digest != run.manifest.model.digest:
            raise InputError(f"{run.location}: was captured from another model than {source}")
    elif not isinstance(units, UnitSet):
        if not Path(units).is_file():
            raise InputError(f"{units}: no such file; without a run, units are a safetensors file of units")
        units = read_safetensors(units)
    require_of_model(units, opened.config, str(source))
    return units
