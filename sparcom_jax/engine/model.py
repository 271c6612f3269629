"""A model on its devices."""

from dataclasses import dataclass

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.placement import Placement
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params


@dataclass(frozen=True)
class PlacedModel:
    """A model, its parameters, and where they lie.

    Attributes:
      config: the model.
      params: its parameters, in the dtype that the forward pass runs in.
      placement: the devices that have them.
    """

    config: DecoderConfig
    params: Params
    placement: Placement


def place_model(model: ModelDir, placement: Placement, dtype: str) -> PlacedModel:
    """Reads the parameters of a model straight to their devices.

    Args:
      model: a converted model.
      placement: where it is to lie.
      dtype: that it is to run in.

    Raises:
      InputError: a part of the parameters is missing or cannot be read.
    """
    return PlacedModel(model.config, model.restore(placement.param_shardings(model.config), dtype), placement)
