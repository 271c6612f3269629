"""What every unit does at every token of one prompt.

Axis legend: T tokens of the prompt, L layers of a group, F neurons, K experts per token.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import TokenizedSet, token_text
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.capture.texts import texts_to_feed
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement, one_device
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.explore.step import prompt_step
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.strict_json import require_plain
from sparcom_jax.units.groups import Group, model_groups

if TYPE_CHECKING:
    import xarray

PROMPT = "the prompt"
DIMS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "activation": {"mlp": ("neuron",), "shared": ("neuron",), "routed": ("choice", "neuron")},
    "expert": {"routed": ("choice",)},
    "weight": {"routed": ("choice",)},
}
"""By array and group, the axes after `token` and `layer`."""


def activations(
    model: ModelDir | str | Path,
    text: str,
    settings: CaptureSettings = CaptureSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
    *,
    response: str | None = None,
    layers: Sequence[int] | None = None,
) -> "xarray.DataTree":
    """The activations of one prompt, as a capture with the same settings would read and count it.

    Args:
      model: a converted model, or its directory.
      text: the instruction; template and special tokens come around it as in a capture.
      settings: how a capture reads it: template, scope, window, convention and limits. What a capture keeps (`keep`,
        `value_statistics`, `rows_per_block`) is not read.
      execution: where and how the model runs; with placement `pmap`, on one device.
      response: the reference response that follows the prompt, for scope `response`.
      layers: the model's numbers of the layers that are returned; all by default. They bound what leaves the device,
        which holds the activations of all layers while it reads the prompt.

    Returns:
      A tree with a node for each group of neurons that the layers have: `mlp`, `shared`, `routed`. Its `activation` is
      float32 `[token, layer, neuron]`, what a capture counts where it is above 0; of `routed` it is `[token, layer,
      choice, neuron]`, that of the experts that the token is routed to, by falling weight, which `expert` (int32) and
      `weight` (float32), both `[token, layer, choice]`, name and weigh. Coordinates: `token`, the text of each;
      `token_id`; `counted`, whether the scope counts it; `layer`, the model's number.

    Raises:
      InputError: the text is empty or too long, a setting or a layer is at fault, or numbers are not finite.
    """
    model = as_model(model)
    settings.check()
    execution.check()
    groups = _groups(model, layers)
    tokenizer = model.tokenizer()
    texts = _read(model, tokenizer, text, response, settings)
    places = {name: tuple(whole.layers.index(layer) for layer in kept.layers) for name, (whole, kept) in groups.items()}
    config = model.config
    placement = one_device() if execution.placement == "pmap" else make_placement(execution.placement, config)
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    (bins,) = make_plan(texts.lengths, 1, execution.batch_tokens).blocks
    step = partial(prompt_step, config, convention=settings.convention, places=tuple(places.items()),
                   placement=placement)  # fmt: skip
    (found,) = finite_sweep(placed, feeds(texts, bins, placement.data, texts.counting), step, [PROMPT])
    told = {"model": str(model.path), "text": text, "settings": json.dumps(asdict(settings))}
    return _tree(found.values, {name: kept for name, (_, kept) in groups.items()}, texts, tokenizer, told)


def _groups(model: ModelDir, layers: Sequence[int] | None) -> dict[str, tuple[Group, Group]]:
    """The groups of neurons, whole and of the layers that are asked for; those without such a layer are left out."""
    count = model.config.num_layers
    wanted = range(count) if layers is None else [*layers]
    if not wanted or len({*wanted}) < len(wanted):
        raise InputError(f"layers {[*wanted]} must be unique, and one at least")
    if unknown := [layer for layer in wanted if not (isinstance(layer, int | np.integer) and 0 <= layer < count)]:
        raise InputError(f"layers: {first_of(unknown)}: the model has the layers 0 to {count - 1}")
    found = {}
    for group in model_groups(model.config):
        if own := tuple(layer for layer in group.layers if layer in wanted):
            found[group.name] = group, Group(group.name, own, group.dims, group.sizes)
    return found


def _read(model: ModelDir, tokenizer: Any, text: str, response: str | None, settings: CaptureSettings) -> TokenizedSet:
    """The tokens of the prompt, and which of them count."""
    if not text.strip():
        raise InputError("text: is empty")
    if settings.scope == "generated":
        raise InputError("scope 'generated' continues a prompt; give what was generated as the response, with scope "
                         "'response'")  # fmt: skip
    if response is not None and settings.scope != "response":
        raise InputError(f"response has no effect with scope {settings.scope}; leave it out")
    row = {"id": PROMPT, "category": PROMPT, "instruction": text, "response": response}
    require_plain(row, PROMPT)
    rows = InstructionSet("activations", [row], [PROMPT])
    template = make_template(settings.template, tokenizer)
    return texts_to_feed(model.config, rows, tokenizer, template, settings).last(settings.count_window)


def _tree(
    values: Mapping[str, Mapping[str, np.ndarray]],
    groups: Mapping[str, Group],
    texts: TokenizedSet,
    tokenizer: Any,
    told: dict[str, str],
) -> "xarray.DataTree":
    """What the step found, with names; its arrays are `[L, S, ...]`, of which the prompt fills the first T slots."""
    import xarray

    (ids,) = texts.ids
    of_tokens: dict[str, Any] = {
        "token": [token_text(tokenizer, int(token)) for token in ids],
        "token_id": ("token", ids),
        "counted": ("token", texts.counting(0)),
    }
    nodes: dict[str, Any] = {"/": xarray.Dataset(coords=of_tokens, attrs=told)}
    for name, group in groups.items():
        arrays = {
            array: (("token", "layer", *DIMS[array][name]), np.swapaxes(of, 0, 1)[: len(ids)])
            for array, of in values[name].items()
        }
        nodes[name] = xarray.Dataset(arrays, {**of_tokens, "layer": np.asarray(group.layers, np.int32)})
    return xarray.DataTree.from_dict(nodes)
