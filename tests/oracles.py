"""Plain NumPy answers to what the kernels compute, one instruction and one unit at a time, obviously right."""

import math
from typing import Any

import numpy as np

from tests.reference import Reference


def capture_counts(reference: Reference, ids: list[np.ndarray], layers: dict[str, list[int]], experts: int, window: int,
                   convention: str) -> dict[str, np.ndarray]:  # fmt: skip
    """Counts of every statistic, read with forward hooks, text by text without padding."""
    rows: dict[str, list[Any]] = {}
    for text in ids:
        first = max(len(text) - window, 0) if window else 0
        hooks = {}
        for group, module in (("mlp", "mlp"), ("shared", "mlp.shared_expert")):
            for layer in layers.get(group, []):
                path = f"model.layers.{layer}.{module}"
                hooks[f"{group}{layer}"] = f"{path}.act_fn" if convention == "gate" else f"{path}.down_proj:in"
        for layer in layers.get("routed", []):
            hooks[f"x{layer}"] = f"model.layers.{layer}.mlp:in"
        read = reference.run(text, hooks)
        for group in ("mlp", "shared"):
            if group in layers:
                counts = [(read[f"{group}{layer}"][first:] > 0).sum(0) for layer in layers[group]]
                rows.setdefault(f"{group}/positive_count", []).append(counts)
        if "routed" in layers:
            positive, selected, weights = [], [], []
            for layer in layers["routed"]:
                chosen, weight, activation = reference.routed(read[f"x{layer}"], layer)
                per_expert: list[Any] = [0] * experts
                times, mass = np.zeros(experts), np.zeros(experts)
                for token in range(first, len(text)):
                    for expert, share in zip(chosen[token], weight[token], strict=True):
                        value = activation(token, int(expert))[0 if convention == "gate" else 1]
                        per_expert[expert] = per_expert[expert] + (value > 0)
                        times[expert] += 1
                        mass[expert] += share
                width = activation(0, 0).shape[1]
                positive.append(np.stack([np.zeros(width) + count for count in per_expert]))
                selected.append(times)
                weights.append(mass)
            rows.setdefault("routed/positive_count", []).append(positive)
            rows.setdefault("routed/selected_count", []).append(selected)
            rows.setdefault("routed/gate_sum", []).append(weights)
    return {name: np.asarray(values) for name, values in rows.items()}


def select(p: np.ndarray, epsilon: float, ties: str, means: np.ndarray | None = None) -> tuple[set[int], float]:
    """S(i) of one instruction by sorting its frequencies, and the cut."""
    wanted = math.ceil(epsilon * p.size)
    cut = sorted(p.tolist(), reverse=True)[wanted - 1]
    above = {unit for unit in range(p.size) if p[unit] > cut}
    tied = [unit for unit in range(p.size) if p[unit] == cut]
    if ties == "drop":
        return above, cut
    if ties == "include":
        return above | set(tied), cut
    if means is not None:
        tied.sort(key=lambda unit: (-means[unit], unit))
    return above | set(tied[: wanted - len(above)]), cut
