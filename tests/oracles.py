"""Plain NumPy answers to what the kernels compute, one instruction and one unit at a time, obviously right."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from sparcom_jax.verify.reference import Reference


def capture_counts(reference: Reference, ids: list[np.ndarray], layers: dict[str, list[int]], experts: int, window: int,
                   convention: str, *, value_statistics: bool = False) -> dict[str, np.ndarray]:  # fmt: skip
    """Counts of every statistic, read with forward hooks, text by text without padding."""
    rows: dict[str, list[Any]] = {}
    for text in ids:
        first = max(len(text) - window, 0) if window else 0
        hooks = {}
        for group in ("mlp", "shared"):
            for layer in layers.get(group, []):
                mlp = f"{reference.layer(layer)}.mlp"
                path = mlp if group == "mlp" else reference.shared(mlp)
                assert path is not None
                hooks[f"{group}{layer}"] = reference.neurons(path)[0 if convention == "gate" else 1]
        for layer in layers.get("routed", []):
            hooks[f"x{layer}"] = f"{reference.layer(layer)}.mlp:in"
        read = reference.run(text, hooks)
        for group in ("mlp", "shared"):
            if group in layers:
                counts = [(read[f"{group}{layer}"][first:] > 0).sum(0) for layer in layers[group]]
                rows.setdefault(f"{group}/positive_count", []).append(counts)
        if "routed" in layers:
            positive, selected, weights, norms = [], [], [], []
            for layer in layers["routed"]:
                theirs = reference.routed(read[f"x{layer}"], f"{reference.layer(layer)}.mlp")
                values = theirs.gate if convention == "gate" else theirs.product
                per_expert = np.zeros((experts, values.shape[2]))
                times, mass, added = np.zeros(experts), np.zeros(experts), np.zeros(experts)
                for token in range(first, len(text)):
                    for choice, expert in enumerate(theirs.chosen[token]):
                        per_expert[expert] += values[token, choice] > 0
                        times[expert] += 1
                        mass[expert] += theirs.weight[token, choice]
                        added[expert] += theirs.weight[token, choice] * np.linalg.norm(theirs.output[token, choice])
                positive.append(per_expert)
                selected.append(times)
                weights.append(mass)
                norms.append(added)
            rows.setdefault("routed/positive_count", []).append(positive)
            rows.setdefault("routed/selected_count", []).append(selected)
            rows.setdefault("routed/gate_sum", []).append(weights)
            if value_statistics:
                rows.setdefault("routed/norm_sum", []).append(norms)
    return {name: np.asarray(values) for name, values in rows.items()}


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, lengths: list[int], reach: int, cap: float,
              sinks: np.ndarray | None) -> np.ndarray:  # fmt: skip
    """Causal attention of texts that lie one after another: one token and one head at a time, in float64."""
    out = np.zeros((len(q), q.shape[1], v.shape[2]))
    per_group = q.shape[1] // k.shape[1]
    start = 0
    for length in lengths:
        for token in range(start, start + length):
            first = max(start, token - reach + 1)
            for head in range(q.shape[1]):
                score = k[first : token + 1, head // per_group].astype(float) @ q[token, head]
                score = cap * np.tanh(score / cap) if cap else score
                weight = np.exp(score)
                total = weight.sum() + (0 if sinks is None else np.exp(sinks[head]))
                out[token, head] = weight @ v[first : token + 1, head // per_group] / total
        start += length
    return out


def excess(counts: np.ndarray, tokens: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By how much each count exceeds that of the unit's rate, category by category and unit by unit, in doubles."""
    p = counts / tokens[:, None]
    rate = np.mean([p[labels == category].mean(axis=0) for category in np.unique(labels)], axis=0)
    z = (counts - tokens[:, None] * rate) / np.sqrt(tokens[:, None] * rate * (1 - rate) + 0.5)
    return np.where(z > 1e-6, z, 0)


def select(p: np.ndarray, epsilon: float, ties: str, means: np.ndarray | None = None) -> tuple[set[int], float]:
    """S(i) of one instruction by sorting its scores, and the cut; what has no score above 0 is never in."""
    wanted = math.ceil(Fraction(str(epsilon)) * p.size)
    cut = sorted(p.tolist(), reverse=True)[wanted - 1]
    above = {unit for unit in range(p.size) if p[unit] > cut}
    tied = [unit for unit in range(p.size) if p[unit] == cut and cut > 0]
    if ties == "drop":
        return above, cut
    if ties == "include":
        return above | set(tied), cut
    if means is not None:
        tied.sort(key=lambda unit: (-means[unit], unit))
    return above | set(tied[: wanted - len(above)]), cut
