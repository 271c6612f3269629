"""Summaries of a converted model, and of its verification."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import first_of
from sparcom_jax.results.numbers import number
from sparcom_jax.summaries.summary import Cell, Summary, Table, command
from sparcom_jax.units.groups import model_groups


def converted(model: ModelDir, output: str) -> Summary:
    """What a conversion made.

    Args:
      model: the model.
      output: its directory, as the user named it.
    """
    manifest, config = model.manifest, model.config
    made = manifest["conversion"] or {}
    units = [f"{group.name} {group.unit_count:,}" for group in model_groups(config)]
    experts = f", {config.experts.count} experts, {config.experts.per_token} a token" if config.experts else ""
    layers = f"{manifest['parameters']:,} parameters in {config.num_layers} layers{experts}"
    facts = [
        ("model", f"{manifest['family']}, {layers}"),
        ("units", ", ".join(units)),
        ("stored in", manifest["dtype"]),
    ]
    if dequantised := made.get("dequantised"):
        kinds = dequantised["tensors"]
        of_kinds = [f"{name} {count:,}" for name, count in kinds.items()] if isinstance(kinds, dict) else [f"{kinds:,}"]
        facts.append(("dequantised", f"from {dequantised['scheme']} ({first_of(of_kinds)} tensors)"))
    if adapter := made.get("adapter"):
        facts.append(("adapter", f"{adapter['path']}, merged into {adapter['tensors']:,} tensors"))
    warnings = [f"Fields of config.json that transformers does not read either: {first_of(made['not_read'])}."
                ] if made.get("not_read") else []  # fmt: skip
    if left := made.get("tensors_left"):
        warnings.append(f"Tensors of the checkpoint that are not part of the model: {first_of(left)}.")
    if not config.head:
        warnings.append("The model has no output head: it can be captured, but not ablated or attributed.")
    following = [
        command("verify", source=manifest["source"], model=output),
        command("capture", model=output, instructions="hexainst", output="RUN"),
    ]
    return Summary(f"convert: {output}", facts, [], warnings, following)


def exported(model: ModelDir, directory: Path, output: str) -> Summary:
    """What an export made.

    Args:
      model: the model.
      directory: what was made.
      output: the same, as the user named it.
    """
    files = sorted(path for path in directory.iterdir() if path.suffix == ".safetensors")
    size = sum(path.stat().st_size for path in files) / 1e9
    facts = [
        ("model", f"{model.manifest['family']}, {model.manifest['parameters']:,} parameters in {model.dtype}"),
        ("files", f"{size:.3g} GB in {len(files):,}: {first_of(path.name for path in files)}"),
    ]
    return Summary(f"export: {output}", facts, [], [], [command("convert", source=output, output="MODEL_DIR")])


def edited(record: Mapping[str, Any], output: str) -> Summary:
    """What an edit made.

    Args:
      record: what `edit` returns.
      output: the directory, as the user named it.
    """
    units, count = record["units"], record["edited"]
    facts = [
        ("source", record["source"]),
        ("units", f"{units['name'] or units['selector']} of {record['category']}"),
        ("edited", _edited(count)),
        ("so that", record["consequence"]),
    ]
    following = [command("convert", source=output, output="MODEL_DIR")]
    return Summary(f"edit: {output}", facts, [], [], following)


def _edited(count: Mapping[str, int]) -> str:
    if "tensors" not in count:
        return f"{count['layers']:,} layers; the model is smaller"
    return f"{count['tensors']:,} tensors in {count['layers']:,} layers; all others are as they were"


def verified(model: str, outcome: Mapping[str, Any]) -> Summary:
    """How far a converted model agrees with transformers.

    Args:
      model: its directory.
      outcome: a verification as plain values.
    """
    layers = outcome["layers"]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in layers:
        groups.setdefault(one["group"], []).append(one)
    rows: list[list[Cell]] = []
    for name, of in groups.items():
        worst = max(of, key=lambda one: one["flips"] / one["activations"])
        activations, flips = (sum(one[field] for one in of) for field in ("activations", "flips"))
        rows.append([name, len(of), activations, flips, flips / activations, f"L{worst['layer']}",
                     sum(one["rerouted"] for one in of)])  # fmt: skip
    judged = (
        "measured, not judged" if outcome["dtype"] != "float32" else "falls short" if outcome["faults"] else "agrees"
    )
    facts = [
        ("outcome", f"{judged}, in {outcome['dtype']}"),
        ("compared on", f"{outcome['texts']:,} instructions, {outcome['tokens']:,} tokens"),
        ("logits", f"largest error {number(outcome['logits_error'])}, relative to the largest logit"),
    ]
    heads = ("units", "layers", "activations", "flips", "flip rate", "worst in", "rerouted tokens")
    warnings = [f"{fault}." for fault in outcome["faults"]]
    if departure := outcome["departure"]:
        warnings.append(f"First module that departs: {departure['module']} (error {number(departure['error'])}).")
    return Summary(f"verify: {model}", facts, [Table(heads, rows, "signs of activations", "groups")], warnings)
