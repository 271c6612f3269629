"""The oracle: transformers on the same checkpoint, every quantity read with a forward hook or by hand.

Needs torch, which nothing else in the package does.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from transformers import AutoModelForCausalLM


class Reference:
    """A transformers model whose modules' inputs and outputs can be read; code of the checkpoint is never run."""

    def __init__(self, source: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        """Loads a Hugging Face directory or a GGUF file onto a device of torch."""
        self.device = device
        file = {"gguf_file": source.name} if source.suffix == ".gguf" else {"use_safetensors": True}
        self.model = AutoModelForCausalLM.from_pretrained(
            source.parent if source.suffix == ".gguf" else source,
            dtype=dtype,
            attn_implementation="eager",
            experts_implementation="eager",
            local_files_only=True,
            trust_remote_code=False,
            **file,
        ).eval().to(device)  # fmt: skip

    def run(self, ids: np.ndarray, hooked: dict[str, str]) -> dict[str, np.ndarray]:
        """Runs one text without padding.

        Args:
          ids: token ids.
          hooked: name -> module path; a path that ends in `:in` reads the module's first input instead of its output.
        """
        read: dict[str, np.ndarray] = {}
        handles = [self._hook(name, path, read) for name, path in hooked.items()]
        with torch.inference_mode():
            output = self.model(torch.tensor(np.asarray(ids), device=self.device)[None].long())
        for handle in handles:
            handle.remove()
        return read | {"logits": output.logits[0].float().cpu().numpy()}

    def layer(self, layer: int) -> str:
        """Path of a layer's module."""
        return f"{'gpt_neox' if hasattr(self.model, 'gpt_neox') else 'model'}.layers.{layer}"

    def neurons(self, mlp: str) -> tuple[str, str]:
        """Paths that show act_fn(gate_proj(x)) and the input of down_proj of an MLP module."""
        children = dict(self.model.get_submodule(mlp).named_children())
        act, down = (
            next(name for name in names if name in children)
            for names in (("act_fn", "activation_fn", "act"), ("down_proj", "dense_4h_to_h"))
        )
        return f"{mlp}.{act}", f"{mlp}.{down}:in"

    def shared(self, mlp: str) -> str | None:
        """Path of the shared expert of an MoE block."""
        names = [name for name, _ in self.model.get_submodule(mlp).named_children()]
        return next((f"{mlp}.{name}" for name in ("shared_expert", "shared_experts") if name in names), None)

    def _hook(self, name: str, path: str, read: dict[str, np.ndarray]) -> Any:
        module = self.model.get_submodule(path.removesuffix(":in"))

        def keep(_: Any, inputs: Any, named: Any, output: Any) -> None:
            value = (inputs[0] if inputs else named["hidden_states"]) if path.endswith(":in") else output
            value = value[0] if isinstance(value, tuple) else value
            read[name] = value.detach().float().reshape(-1, value.shape[-1]).cpu().numpy().copy()

        return module.register_forward_hook(keep, with_kwargs=True)

    def routed(self, x: Float[np.ndarray, "T D"], mlp: str) -> "Routed":
        """Routing and expert activations of an MoE block, from its own weights.

        Args:
          x: input of the MoE block.
          mlp: path of the block.
        """
        block = self.model.get_submodule(mlp)
        router = block.gate if hasattr(block, "gate") else block.router
        given = torch.tensor(x, dtype=self.model.dtype, device=self.device)
        with torch.inference_mode():
            logits, weight, chosen = router(given)
            order = weight.argsort(dim=-1, descending=True, stable=True)
            weight, chosen = weight.gather(-1, order), chosen.gather(-1, order)
            parts = []
            for expert in chosen.unique().tolist():
                token, choice = torch.where(chosen == expert)
                parts.append((token, choice, *_activations(block.experts, expert, given[token])))
            gate = given.new_zeros(*chosen.shape, parts[0][2].shape[-1])
            product, output = torch.zeros_like(gate), given.new_zeros(*chosen.shape, given.shape[-1])
            for token, choice, gates, products, outputs in parts:
                gate[token, choice], product[token, choice], output[token, choice] = gates, products, outputs
        numbers = [part.float().cpu().numpy() for part in (logits, weight, gate, product, output)]
        return Routed(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], chosen.cpu().numpy())


class Routed(NamedTuple):
    """What an MoE block does with each token; the K choices are in the order of falling weight."""

    logits: Float[np.ndarray, "T E"]
    weight: Float[np.ndarray, "T K"]
    gate: Float[np.ndarray, "T K F"]
    product: Float[np.ndarray, "T K F"]
    output: Float[np.ndarray, "T K D"]
    chosen: Int[np.ndarray, "T K"]


def _activations(experts: Any, expert: int, x: Any) -> tuple[Any, Any, Any]:
    """act_fn(gate_proj(x)), the input of down_proj, and what it returns."""
    if hasattr(experts, "alpha"):  # gpt-oss
        both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate = both[..., ::2].clamp(max=experts.limit)
        product = experts._apply_gate(both)
        output = product @ experts.down_proj[expert] + experts.down_proj_bias[expert]
        return gate * torch.sigmoid(experts.alpha * gate), product, output
    gate, up = (x @ experts.gate_up_proj[expert].T).chunk(2, dim=-1)
    gate = experts.act_fn(gate)
    return gate, gate * up, (gate * up) @ experts.down_proj[expert].T
