"""What the capture is timed against: programs a user might write, from texts to counts in memory.

`hooks` is the fairest, texts sorted by length and read in padded batches; the others read one text at a time, as their
users do. None computes logits where it can be left out. nnsight and transformer_lens are not among the requirements.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparcom_jax.store.schema import EXPERT_GROUP, Group

Counts = dict[str, np.ndarray]
SeeExpert = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]


class PaddedBatch(NamedTuple):
    """Texts of similar length as a rectangle; B texts, T tokens.

    Attributes:
      rows: `[B]`, which texts they are.
      ids: `[B, T]`, padded on the right.
      real: `[B, T]`, False for padding.
    """

    rows: np.ndarray
    ids: torch.Tensor
    real: torch.Tensor


class HookedModel:
    """A transformers model whose forward hooks count positive activations, on batches of like length.

    Attributes:
      filled: share of the slots of the last texts' batches that held a token.
    """

    filled = 1.0

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = load_torch(directory)
        self._groups = groups
        self._batch_tokens = batch_tokens
        self._counts: Counts = {}
        layers = {group.name: group.layers for group in groups}
        for number, layer in enumerate(self._model.layers):
            if hasattr(layer.mlp, "experts"):
                routed, shared = layers["routed"].index(number), layers["shared"].index(number)
                layer.mlp.shared_expert.act_fn.register_forward_hook(partial(self._see, "shared", shared))
                observe_experts(layer.mlp.experts, partial(self._see_expert, routed))
            else:
                layer.mlp.act_fn.register_forward_hook(partial(self._see, "mlp", layers["mlp"].index(number)))

    def count(self, texts: list[str]) -> Counts:
        """Counts `[I, L, ...]` uint16 of each group, and under `expert` the tokens that each expert was chosen for."""
        ids = self._tokenizer(texts)["input_ids"]
        self._counts = {group.name: np.zeros((len(texts), *group.shape), np.uint16) for group in self._groups}
        if "routed" in self._counts:
            self._counts[EXPERT_GROUP] = np.zeros(self._counts["routed"].shape[:-1], np.uint16)
        batches = padded_batches(ids, self._batch_tokens)
        self.filled = sum(int(batch.real.sum()) for batch in batches) / sum(batch.ids.numel() for batch in batches)
        for batch in batches:
            self._batch = batch
            # Which text of the batch a slot belongs to; -1 for padding.
            row = torch.arange(len(batch.rows))[:, None].expand(batch.ids.shape)
            self._row = torch.where(batch.real, row, -1).flatten()
            with torch.inference_mode():
                self._model(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
        return self._counts

    def _see(self, group: str, at: int, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        del module, inputs
        positive = (output.view(*self._batch.ids.shape, -1) > 0) & self._batch.real[:, :, None]
        self._counts[group][self._batch.rows, at] = positive.numpy().sum(axis=1, dtype=np.uint16)

    def _see_expert(
        self, at: int, expert: int, token: torch.Tensor, gate: torch.Tensor, activation: torch.Tensor
    ) -> None:
        del gate
        # Padding, row -1, belongs to no text. Sums of ones are exact in float32.
        member = (torch.arange(len(self._batch.rows))[:, None] == self._row[token]).float()
        rows = self._batch.rows
        self._counts["routed"][rows, at, expert] = (member @ (activation > 0).float()).numpy()
        self._counts[EXPERT_GROUP][rows, at, expert] = member.sum(dim=1).numpy()


class TextByText:
    """A dense model that reads one text at a time; what counts its positive activations is up to the subclass."""

    filled = 1.0

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        del batch_tokens
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._shape = groups[0].shape

    def count(self, texts: list[str]) -> Counts:
        """Counts `[I, L, F]` uint16."""
        counts = np.zeros((len(texts), *self._shape), np.uint16)
        for row, ids in enumerate(self._tokenizer(texts)["input_ids"]):
            with torch.inference_mode():
                counts[row] = self._layers(torch.tensor([ids]))
        return {"mlp": counts}

    def _layers(self, ids: torch.Tensor) -> torch.Tensor:
        """Counts `[L, F]` of one text."""
        raise NotImplementedError


class Script(TextByText):
    """In the manner of the scripts of LAPE (Tang et al. 2024): the MLPs' forward is replaced by one that counts."""

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        super().__init__(directory, groups, batch_tokens)
        self._model = load_torch(directory)
        self._positive = torch.zeros(self._shape, dtype=torch.int32)
        for number, layer in enumerate(self._model.layers):
            layer.mlp.forward = partial(self._forward, layer.mlp, number)

    def _layers(self, ids: torch.Tensor) -> torch.Tensor:
        self._positive.zero_()
        self._model(input_ids=ids, use_cache=False)
        return self._positive

    def _forward(self, mlp: Any, number: int, x: torch.Tensor) -> torch.Tensor:
        activation = mlp.act_fn(mlp.gate_proj(x))
        self._positive[number] += (activation > 0).sum(dim=(0, 1))
        projected: torch.Tensor = mlp.down_proj(activation * mlp.up_proj(x))
        return projected


class NNsight(TextByText):
    """nnsight (Fiotto-Kaufman et al. 2024): a trace of each text that saves the counts of every layer."""

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        import nnsight

        super().__init__(directory, groups, batch_tokens)
        self._model = nnsight.NNsight(load_torch(directory))

    def _layers(self, ids: torch.Tensor) -> torch.Tensor:
        saved = []
        with self._model.trace(ids, use_cache=False):
            for layer in self._model.layers:
                saved.append((layer.mlp.act_fn.output > 0).sum(dim=(0, 1)).save())
        return torch.stack(saved)


class TransformerLens(TextByText):
    """TransformerLens (Nanda and Bloom 2022): hooks on what act_fn reads, which is positive where its output is."""

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        from transformer_lens.model_bridge import TransformerBridge

        super().__init__(directory, groups, batch_tokens)
        self._model = TransformerBridge.boot_transformers(str(directory), tokenizer=self._tokenizer, device="cpu")

    def _layers(self, ids: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(self._shape, dtype=torch.int64)

        def see(number: int, value: torch.Tensor, hook: Any) -> None:
            del hook
            counts[number] = (value > 0).sum(dim=(0, 1))

        hooks = [(f"blocks.{number}.mlp.hook_pre", partial(see, number)) for number in range(len(counts))]
        self._model.run_with_hooks(ids, return_type=None, fwd_hooks=hooks)
        return counts


def load_torch(directory: Path) -> torch.nn.Module:
    """A checkpoint in transformers without its head, in float32, with the experts in a plain loop."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, experts_implementation="eager")
    return model.eval().model


def observe_experts(experts: torch.nn.Module, see: SeeExpert) -> None:
    """Patches the expert loop of transformers, so that what each expert does can be seen.

    Args:
      experts: the fused experts of a layer.
      see: is called with each expert that has tokens, these tokens (rising), gate_proj(x) and act_fn(gate_proj(x)).
    """

    def forward(hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output = torch.zeros_like(hidden)
        routed = torch.nn.functional.one_hot(chosen, experts.num_experts).permute(2, 0, 1)
        for expert in routed.sum(dim=(1, 2)).nonzero().flatten().tolist():
            token, choice = torch.where(routed[expert])
            projected = torch.nn.functional.linear(hidden[token], experts.gate_up_proj[expert])
            gate, up = projected.chunk(2, dim=-1)
            activation = experts.act_fn(gate)
            see(expert, token, gate, activation)
            result = torch.nn.functional.linear(activation * up, experts.down_proj[expert])
            output.index_add_(0, token, result * weights[token, choice, None])
        return output

    experts.forward = forward


def padded_batches(ids: list[list[int]], batch_tokens: int) -> list[PaddedBatch]:
    """Sorts texts by length and cuts them into batches of at most `batch_tokens` slots, or of one text."""
    batches = []
    rows: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if rows and (len(rows) + 1) * len(ids[row]) > batch_tokens:
            batches.append(_pad(ids, rows))
            rows = []
        rows.append(row)
    return [*batches, _pad(ids, rows)]


def _pad(ids: list[list[int]], rows: list[int]) -> PaddedBatch:
    length = max(len(ids[row]) for row in rows)
    padded = torch.tensor([ids[row] + [0] * (length - len(ids[row])) for row in rows])
    real = torch.tensor([[True] * len(ids[row]) + [False] * (length - len(ids[row])) for row in rows])
    return PaddedBatch(np.asarray(rows), padded, real)


PEERS: dict[str, Any] = {
    "hooks": HookedModel,
    "script": Script,
    "nnsight": NNsight,
    "transformer_lens": TransformerLens,
}
"""The peers by name: (directory of the checkpoint, neuron groups, token slots of a batch) -> what counts."""

OPTIONAL = ("nnsight", "transformer_lens")
"""Peers that are packages of their names, which the requirements do not have."""
