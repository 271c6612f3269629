"""The oracle: transformers on the same checkpoint, every quantity read with a forward hook or by hand."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from sparcom_jax.models.decoder import Batch


class Reference:
    """A transformers model whose modules' outputs can be read."""

    def __init__(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = AutoModelForCausalLM.from_pretrained(
            directory, dtype=dtype, attn_implementation="eager", experts_implementation="eager"
        ).eval()

    def run(self, ids: np.ndarray, hooked: dict[str, str]) -> dict[str, np.ndarray]:
        """Runs one text without padding.

        Args:
          ids: token ids.
          hooked: name -> module path; a path that ends in `:in` reads the module's first input instead of its output.
        """
        read: dict[str, np.ndarray] = {}
        handles = [self._hook(name, path, read) for name, path in hooked.items()]
        with torch.inference_mode():
            output = self.model(torch.tensor(np.asarray(ids))[None].long())
        for handle in handles:
            handle.remove()
        return read | {"logits": output.logits[0].float().numpy()}

    def _hook(self, name: str, path: str, read: dict[str, np.ndarray]) -> Any:
        module = self.model.get_submodule(path.removesuffix(":in"))

        def keep(_: Any, inputs: Any, output: Any) -> None:
            value = inputs[0] if path.endswith(":in") else output
            value = value[0] if isinstance(value, tuple) else value
            read[name] = value.detach().float().reshape(-1, value.shape[-1]).numpy().copy()

        return module.register_forward_hook(keep)

    def routed(self, x: np.ndarray, layer: int) -> tuple[np.ndarray, np.ndarray, Callable[[int, int], np.ndarray]]:
        """Routing and expert activations of a layer, from the module's own weights, one token and expert at a time.

        Args:
          x: input of the MoE block `[T, D]`.
          layer: layer number.

        Returns:
          Chosen experts `[T, K]`, their weights `[T, K]`, and a function of (token, expert) that gives the activations
          act_fn(gate_proj(x)) and act_fn(gate_proj(x)) * up_proj(x), stacked.
        """
        block = self.model.model.layers[layer].mlp
        with torch.inference_mode():
            _, weight, chosen = block.gate(torch.tensor(x))

        def activation(token: int, expert: int) -> np.ndarray:
            with torch.inference_mode():
                both = torch.tensor(x[token]) @ block.experts.gate_up_proj[expert].T
                gate, up = both.chunk(2)
                gate = block.experts.act_fn(gate)
                return torch.stack([gate, gate * up]).numpy()

        return chosen.numpy(), weight.float().numpy(), activation


def packed(texts: list[np.ndarray], slots: int, rows: int) -> Batch:
    """Lays texts into a batch by hand."""
    token, position = np.zeros(slots, np.int32), np.zeros(slots, np.int32)
    row = np.full(slots, rows, np.int32)
    start = 0
    for index, text in enumerate(texts):
        span = slice(start, start + len(text))
        token[span], position[span], row[span] = text, np.arange(len(text)), index
        start += len(text)
    return Batch(token, position, row, row < rows)
