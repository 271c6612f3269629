"""What switching off a single unit does to the likelihood of every category's responses.

Axis legend: C categories, n chosen units.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.likelihood import UNTOUCHED, Likelihood
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.subject import own_subject
from sparcom_jax.causal.texts import Scored, scored
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.errors import InputError
from sparcom_jax.explore.chosen import Chosen
from sparcom_jax.progress import progress
from sparcom_jax.resampling import category_means, one_hot
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import EXPERT_GROUP
from sparcom_jax.units.unit_set import UnitSet


def responses_to_score(model: ModelDir, run: Run, units: UnitSet, per_category: int) -> Scored:
    """The responses that effects are measured on: held out, or of all instructions where all of them chose the units.

    Args:
      model: the model, whose tokenizer reads them.
      run: the run that chose the units.
      units: the units.
      per_category: responses of each category, at most.

    Raises:
      InputError: the model has no output head, a category has no response to measure, or an expert could not be
        switched off because a token needs all that a layer has.
    """
    model.require_head("explore with effects")
    subject = own_subject(run, units)
    experts, needed = run.groups.get(EXPERT_GROUP), run.manifest.model.num_experts_per_tok
    if experts and EXPERT_GROUP in units.groups and experts.sizes[0] <= needed:
        raise InputError(f"{run.location}: a token needs all {needed} experts of a layer, so that none of them can be "
                         f"switched off; leave effects out, or choose neurons only")  # fmt: skip
    measured = "all" if subject.chose is None else "held_out"
    return scored(model, run, subject, AblationSettings(measured=measured, per_category=per_category))


def unit_effects(
    model: PlacedModel, run: Run, responses: Scored, chosen: Sequence[Chosen], batch_tokens: int
) -> Float64[np.ndarray, "n C"]:
    """What the responses of each category lose with one unit off, in nats per token, mean over its responses.

    A neuron is set to 0, an expert cannot be chosen.

    Args:
      model: the model on its devices.
      run: the run that chose the units.
      responses: what is scored.
      chosen: the units.
      batch_tokens: token slots of a batch, per device.

    Raises:
      InputError: a likelihood is not finite.
    """
    intervention = Intervention(run.groups, AblationSettings(), None)
    first = min(one.group.layers[one.index[0]] for one in chosen)
    likelihood = Likelihood(model, responses.texts, responses.names, batch_tokens, first_layer=first)
    found = []
    with progress("effects", (1 + len(chosen)) * len(responses.names), "responses") as bar:
        baseline = likelihood.mean_nll(intervention.edits({}), UNTOUCHED, bar.advance)
        for one in chosen:
            mask = np.zeros(one.group.shape, bool)
            mask[one.index] = True
            edits = intervention.edits({one.group.name: mask})
            found.append(likelihood.mean_nll(edits, f" with {one.name} switched off", bar.advance) - baseline)
    observed = one_hot(responses.category[None], len(run.categories))
    return category_means(np.stack(found, axis=1), observed)[0].T
