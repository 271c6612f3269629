"""Answers to any prompts, with a category's units turned up or down."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts
from sparcom_jax.capture.generate import Edited, GenerateSettings, continue_block, require_steady_angles
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import progress
from sparcom_jax.units.groups import model_groups
from sparcom_jax.units.unit_set import UnitSet, require_of_model


@dataclass(frozen=True, eq=False)
class Steering:
    """Neurons whose output is multiplied by a factor, at every token.

    Attributes:
      units: the units.
      category: whose neurons of them are scaled.
      alpha: the factor: 0 switches them off, above 1 turns them up.
    """

    units: UnitSet
    category: str
    alpha: float


def generate(
    model: ModelDir | str | Path,
    prompts: Sequence[str],
    steering: Steering | None = None,
    *,
    template: str = "none",
    new_tokens: int = 128,
    execution: ExecutionSettings = ExecutionSettings(),
) -> list[str]:
    """Continues prompts greedily, as the model is or with a category's units turned up or down.

    Args:
      model: a converted model, or its directory.
      prompts: the instructions.
      steering: what is scaled, in prompts and answers; None leaves the model as it is.
      template: what stands around an instruction: `none`, `plain` or `chat`.
      new_tokens: the most tokens of an answer.
      execution: where and how the model runs.

    Returns:
      The answers, without the prompts and without special tokens.

    Raises:
      InputError: a prompt is empty or too long, or the units are of another model or have no neurons of the category.
    """
    model = as_model(model)
    execution.check()
    model.require_head("an answer")
    if new_tokens < 1:
        raise InputError(f"new_tokens must be positive, got {new_tokens}")
    tokenizer, config = model.tokenizer(), model.config
    names = [f"prompt {number}" for number in range(len(prompts))]
    rows = [{"id": name, "category": "prompt", "instruction": text} for name, text in zip(names, prompts, strict=True)]
    if empty := [name for name, text in zip(names, prompts, strict=True) if not text.strip()]:
        raise InputError(f"{empty[0]}: is empty")
    limit = Limit(config.max_positions - new_tokens)
    reader = Reader(tokenizer, make_template(template, tokenizer), config.vocab_size, limit)
    texts = tokenize_prompts(InstructionSet("prompts", rows, ["prompt"]), reader)
    require_steady_angles(config, texts.lengths, new_tokens, names, "prompts")
    edited = None if steering is None else _edited(config, steering, str(model.path))
    placement = make_placement(execution.placement, config)
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    how = GenerateSettings(new_tokens, model.stop_token_ids(), execution.batch_tokens, len(names))
    with progress("generate", len(names), "prompts") as bar:
        made = continue_block(placed, texts, names, slice(0, len(names)), how, bar.advance, edited)
    return [str(tokenizer.decode(token[:length], skip_special_tokens=True)).strip()
            for token, length in zip(made.token, made.length, strict=True)]  # fmt: skip


def _edited(config: DecoderConfig, steering: Steering, where: str) -> Edited:
    """The model with the neurons scaled.

    Raises:
      InputError: there are none, or they are another model's.
    """
    units, category = steering.units, steering.category
    require_of_model(units, config, where)
    if category not in units.categories:
        raise InputError(f"{units.title} have no category {category!r}; they are of {', '.join(units.categories)}")
    if not math.isfinite(steering.alpha):
        raise InputError(f"alpha must be finite, got {steering.alpha}")
    index = list(units.categories).index(category)
    groups = {group.name: group for group in model_groups(config)}
    scaled = {name: mask[index] for name, mask in units.mask.items() if name in groups}
    if not any(mask.any() for mask in scaled.values()):
        raise InputError(f"{units.title} have no neurons of {category}, so there is nothing to scale")
    edits = Intervention(groups, AblationSettings(how="scale", alpha=steering.alpha), None).edits(scaled)
    return Edited(edits, f" with the neurons of {category} times {steering.alpha:g}")
