"""What transformers says of the texts that an ablation scores."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.verify.reference import Reference


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def reference_nll(reference: Reference, model: ModelDir, rows: list[dict[str, Any]]) -> np.ndarray:
    tokenizer, losses = model.tokenizer(), []
    for row in rows:
        prompt = tokenizer(row["instruction"])["input_ids"]
        response = tokenizer("\n" + row["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        logits = reference.run(np.asarray(prompt + response), {})["logits"]
        log_probability = torch.log_softmax(torch.tensor(logits), -1).numpy()
        at = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        losses.append(-log_probability[at, response].mean())
    return np.asarray(losses)


def products(reference: Reference, model: ModelDir, row: dict[str, Any]) -> np.ndarray:
    """The inputs of down_proj at all tokens of a prompt and its response, `[T, L, F]`."""
    found: list[np.ndarray] = []
    hooks = [layer.mlp.down_proj.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0][0].numpy().copy()))
             for layer in reference.model.model.layers]  # fmt: skip
    reference_nll(reference, model, [row])
    for hook in hooks:
        hook.remove()
    return np.stack(found, axis=1)
