"""Scores of experts by routing: those of ESFT, of SteerMoE and of REAP.

Axis legend: I instructions, C categories, L layers, E experts.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64

from sparcom_jax.select.sample import Sample

PER_CATEGORY = Float64[np.ndarray, "C L E"]


def mean_of_instructions(per_token: Float64[np.ndarray, "I L E"], sample: Sample) -> PER_CATEGORY:
    """Mean over a category's instructions of a sum over tokens by T: every instruction counts alike.

    Args:
      per_token: sums over the tokens of each instruction.
      sample: the instructions.
    """
    share = per_token / sample.tokens[:, None, None]
    return (
        np.einsum("ci,ile->cle", sample.members.astype(np.float64), share) / np.maximum(sample.sizes, 1)[:, None, None]
    )


def esft(relevance: PER_CATEGORY, layer_share: float) -> tuple[Float32[np.ndarray, "C L E"], Bool[np.ndarray, "C L E"]]:
    """Experts by expert-specialised fine-tuning (Wang et al. 2024, arXiv 2407.01906).

    In every layer the experts by falling relevance, until theirs sum to `layer_share` or more. The relevance of an
    expert is, in a category, the mean over instructions and their tokens of its routing weight (`esft_gate`), or of
    1/K where it is chosen (`esft_token`).

    Args:
      relevance: of every expert.
      layer_share: the sum at which a layer has enough, p in the paper: 0.1 for gates and 0.2 for tokens there.

    Returns:
      The relevance as score, and the mask of the chosen.
    """
    order = np.argsort(-relevance, axis=2, kind="stable")
    ordered = np.take_along_axis(relevance, order, axis=2)
    short = np.cumsum(ordered, axis=2) - ordered < layer_share  # those before it do not suffice
    mask = np.zeros(relevance.shape, bool)
    np.put_along_axis(mask, order, short, axis=2)
    return relevance.astype(np.float32), mask


def by_layers(relevance: PER_CATEGORY) -> PER_CATEGORY:
    """The relevance divided by its sum over layers, expert by expert: what the code that came with ESFT does.

    The paper has no such step. Relevance then sums to 1 over the layers of an expert number, not over the experts of a
    layer.
    """
    return relevance / np.maximum(relevance.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)


def reap(
    norm_sum: Float64[np.ndarray, "I L E"], selected: Float64[np.ndarray, "I L E"], sample: Sample
) -> Float32[np.ndarray, "C L E"]:
    """Mean, over a category's tokens that are routed to an expert, of its routing weight times the norm of its output.

    The saliency of router-weighted expert activation pruning (Lasby et al. 2025, arXiv 2510.13999): how much an expert
    adds where it is used, not how often it is. 0 for an expert that no token of the category is routed to.

    Args:
      norm_sum: sums of the routing weight times the norm of the expert's output.
      selected: tokens routed to each expert.
      sample: the instructions.
    """
    members = sample.members.astype(np.float64)
    total, tokens = (np.einsum("ci,ile->cle", members, values) for values in (norm_sum, selected))
    return (total / np.maximum(tokens, 1)).astype(np.float32)


def risk_difference(selected: Float64[np.ndarray, "I L E"], sample: Sample) -> Float32[np.ndarray, "C L E"]:
    """Share of a category's tokens that are routed to an expert, less the same of all other categories' tokens.

    SteerMoE's (Fayyaz et al. 2025, arXiv 2509.09660), with the rest for the opposite behaviour. Tokens count alike.

    Args:
      selected: tokens routed to each expert.
      sample: the instructions.
    """
    members = sample.members.astype(np.float64)

    def rate(weights: Float64[np.ndarray, "C I"]) -> PER_CATEGORY:
        tokens = np.maximum(weights @ sample.tokens, 1)
        return np.einsum("ci,ile->cle", weights, selected) / tokens[:, None, None]

    return (rate(members) - rate(1 - members)).astype(np.float32)
