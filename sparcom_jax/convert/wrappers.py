"""Models around a text model: which part of their config and which of their tensors are the text model's."""

import re
from typing import Any

# model_type of the wrapper -> family of the text model, where its config does not say.
WRAPPERS: dict[str, str] = {
    "gemma3": "gemma3_text",
    "mistral3": "mistral",
    "qwen2_5_vl": "qwen2",
    "qwen3_vl": "qwen3",
}
# Text models with a model_type of their own that compute what a family computes where there is only text.
SAME_AS = {"qwen2_5_vl_text": "qwen2", "qwen3_vl_text": "qwen3"}

# Released files say `language_model.model.` (saved before transformers 5), `model.language_model.` (since) or, of
# qwen2_5_vl, `model.` as if there were no wrapper.
_TEXT = re.compile(r"^(?:language_model\.model\.|model\.language_model\.)")
_HEAD = re.compile(r"^language_model\.lm_head\.")
_OTHER = re.compile(r"^(?:model\.)?(?:vision_tower|vision_model|visual|multi_modal_projector)\.")


def text_config(hf: Any, raw: dict[str, Any]) -> tuple[Any, dict[str, Any], str]:
    """The text model's config in a wrapper's.

    Args:
      hf: transformers' config object of the wrapper.
      raw: the content of config.json; older ones of qwen2_5_vl hold the text model's fields beside the others.

    Returns:
      The text model's config object, the fields of config.json that are its own, and its family.
    """
    text = hf.get_text_config()
    fields = dict(raw.get("text_config") or {})
    if not fields:
        declared = set(type(text)().to_dict()) | {"rope_scaling", "rope_theta"}
        fields = {name: value for name, value in raw.items() if name in declared and name != "model_type"}
    # The wrapper ties its head, whatever the text model's own config says.
    text.tie_word_embeddings = hf.tie_word_embeddings
    fields.pop("tie_word_embeddings", None)
    if text.model_type in SAME_AS:
        text.rope_parameters = _plain_rope(text.rope_parameters)
        fields.pop("rope_scaling", None)
        fields.pop("rope_parameters", None)
    return text, fields, SAME_AS.get(text.model_type, text.model_type)


def _plain_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Positions in time, height and width are equal in a text, so that sections of a head make no difference."""
    plain = {name: value for name, value in parameters.items() if name not in ("mrope_section", "mrope_interleaved")}
    if plain.get("rope_type") in ("axial", "mrope"):
        plain["rope_type"] = "default"
    return {**plain, "type": plain["rope_type"]}


def text_name(name: str) -> str | None:
    """The name of a wrapper's tensor in its text model; None where it is not the text model's."""
    if _OTHER.match(name):
        return None
    return _HEAD.sub("lm_head.", _TEXT.sub("model.", name))
