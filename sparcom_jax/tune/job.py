"""All that a training is made of."""

from dataclasses import dataclass

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.tune.choice import Choice
from sparcom_jax.tune.settings import TuneSettings
from sparcom_jax.tune.texts import Schedule, TuneTexts
from sparcom_jax.tune.trained import Trained


@dataclass(frozen=True, eq=False)
class Job:
    """A training.

    Attributes:
      model: what it begins with.
      instructions: all that could be read.
      choice: what is trained.
      texts: what is read.
      plan: the batches of its steps.
      settings: how.
      execution: where.
    """

    model: ModelDir
    instructions: InstructionSet
    choice: Choice
    texts: TuneTexts
    plan: Schedule
    settings: TuneSettings
    execution: ExecutionSettings

    @property
    def trained(self) -> Trained:
        """The parts of the model that are trained."""
        return self.choice.trained
