"""How units are explored: the settings, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError


@dataclass(frozen=True)
class ExploreSettings:
    """Which units get a card, and what is on it.

    Attributes:
      top: units of each category, those of the highest score, of neurons and of experts each.
      examples: instructions on the card of a unit: those where it is most active, then one of each range of activation.
      sample: instructions of each category, the first in the run's order, that the range of activations is read from.
      window: tokens of an example, around the most active one, that are kept.
      words: tokens that a neuron's output raises most, and lowers most, of each so many.
      neighbours: units whose sets of instructions are most alike.
      effects: held-out responses of each category that switching off each unit by itself is measured on; 0: none.
      texts: whether the report shows the texts of the examples; corpora have licences.
      bootstraps: bootstrap samples of the instructions, for the intervals of frequencies.
      seed: seed of the bootstrap.
    """

    top: int = 50
    examples: int = 10
    sample: int = 10
    window: int = 64
    words: int = 10
    neighbours: int = 5
    effects: int = 0
    texts: bool = False
    bootstraps: int = 1000
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is out of range.
        """
        for field in ("top", "examples", "sample", "window", "bootstraps"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("words", "neighbours", "effects", "seed"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} must not be negative, got {getattr(self, field)}")
