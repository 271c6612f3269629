"""What the capture is timed against: transformers with forward hooks on the same card, the same tokens and dtype."""

import copy
import gc
import statistics

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModel

from benchmarks.accelerator.record import Record, median_of
from benchmarks.accelerator.shapes import Fields, decoder_config
from benchmarks.peers import HookedModel
from sparcom_jax.units.groups import model_groups

WITHOUT_SDPA = ("gpt_oss",)
"""Families whose sinks transformers has in its plain attention only."""


def random_model(fields: Fields, dtype: str, device: torch.device, seed: int = 0) -> torch.nn.Module:
    """A model of random weights without its head, made where it is to lie.

    Args:
      fields: its config.
      dtype: of the weights.
      device: where it lies.
      seed: of the weights.
    """
    config = CONFIG_MAPPING[fields["model_type"]].from_dict(copy.deepcopy(fields))
    attention = "eager" if fields["model_type"] in WITHOUT_SDPA else "sdpa"
    torch.manual_seed(seed)
    with device:
        return AutoModel.from_config(config, dtype=getattr(torch, dtype), attn_implementation=attention).eval()


def hooks_rate(
    record: Record, fields: Fields, lengths: np.ndarray, dtype: str, batch_tokens: int, rounds: int
) -> float | None:
    """Measures how fast the hooks count, from token ids to counts on the host.

    Where the card's memory does not hold a batch, batches of half the slots are tried.

    Args:
      record: takes down the rate, the share of slots filled, and the slots of a batch where they are fewer than asked.
      fields: the model.
      lengths: `[I]`, tokens of each text; the ids are random.
      dtype: of the model.
      batch_tokens: token slots of a batch.
      rounds: passes over all texts that are timed, after one that is not.

    Returns:
      The median, in tokens per second; None where the card does not hold the model with its longest text.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    draw = np.random.default_rng(0)
    ids = [draw.integers(fields["vocab_size"], size=length) for length in lengths]
    slots = batch_tokens
    while True:
        try:
            rates, filled = torch_rates(fields, ids, dtype, slots, rounds, device)
            break
        except torch.cuda.OutOfMemoryError as error:
            reason = str(error)
        finally:
            # The hooks hold the model and the model holds them; its memory is for others to use.
            gc.collect()
            torch.cuda.empty_cache()
        if slots <= lengths.max():
            record.failure("torch hooks", reason)
            return None
        slots //= 2
    if slots < batch_tokens:
        record.fact("torch hooks, token slots of a batch", f"{slots}: out of memory with more")
    record.figure("torch hooks", statistics.median(rates), "tokens/s", spread=rates)
    record.figure("torch hooks, slots filled", filled, "of 1")
    return statistics.median(rates)


def torch_rates(
    fields: Fields, ids: list[np.ndarray], dtype: str, batch_tokens: int, rounds: int, device: torch.device
) -> tuple[list[float], float]:
    """Tokens per second of each round, and the share of slots filled."""
    model = HookedModel(random_model(fields, dtype, device), model_groups(decoder_config(fields)), batch_tokens)

    def count() -> None:
        model.count(ids)
        if device.type == "cuda":
            torch.cuda.synchronize()

    tokens = sum(len(text) for text in ids)
    return [tokens / seconds for seconds in median_of(count, rounds)], model.filled
