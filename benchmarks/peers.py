"""What the capture is timed against: programs a user might write, from texts to counts in memory.

`hooks` is the fairest, texts sorted by length and read in padded batches; the others read one text at a time, as their
users do. None computes logits where it can be left out. nnsight and transformer_lens are not among the requirements.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparcom_jax.units.groups import EXPERT_GROUP, Group

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

    Counting is done where the model is; the counts of a batch come to the host at its end.

    Attributes:
      filled: share of the slots of the last texts' batches that held a token.
    """

    filled = 1.0

    def __init__(self, model: Any, groups: list[Group], batch_tokens: int) -> None:
        """Hooks a model, of any device and dtype.

        Args:
          model: without its head.
          groups: its neuron groups.
          batch_tokens: token slots of a batch.
        """
        self._model = model
        self._device = next(model.parameters()).device
        self._shapes = {group.name: group.shape for group in groups}
        if "routed" in self._shapes:
            self._shapes[EXPERT_GROUP] = self._shapes["routed"][:-1]
        self._batch_tokens = batch_tokens
        layers = {group.name: group.layers for group in groups}
        for number, layer in enumerate(model.layers):
            if not hasattr(layer.mlp, "experts"):
                layer.mlp.act_fn.register_forward_hook(partial(self._see, "mlp", layers["mlp"].index(number)))
                continue
            at = layers["routed"].index(number)
            layer.mlp.experts.register_forward_pre_hook(partial(self._see_chosen, at))
            observe_experts(layer.mlp.experts, partial(self._see_expert, at))
            if "shared" in layers:
                layer.mlp.shared_expert.act_fn.register_forward_hook(partial(self._see, "shared", at))

    def count(self, ids: Sequence[Sequence[int] | np.ndarray]) -> Counts:
        """Counts of texts.

        Args:
          ids: token ids of each text, fewer than 32,768.

        Returns:
          Counts `[I, L, ...]` uint16 of each group, and under `expert` the tokens that each expert was chosen for.
        """
        counts = {name: np.zeros((len(ids), *shape), np.uint16) for name, shape in self._shapes.items()}
        batches = padded_batches(ids, self._batch_tokens)
        self.filled = sum(int(batch.real.sum()) for batch in batches) / sum(batch.ids.numel() for batch in batches)
        for batch in batches:
            for name, found in self._count_batch(batch).items():
                counts[name][batch.rows] = found
        return counts

    def _count_batch(self, batch: PaddedBatch) -> Counts:
        texts = len(batch.rows)
        self._real = batch.real.to(self._device)
        # Which text of the batch a slot belongs to; of padding, one more than there are.
        text = torch.arange(texts, device=self._device)[:, None]
        self._text = torch.where(self._real, text, texts).flatten()
        # torch adds no uint16; the host reads these as what they are.
        self._found = {
            name: torch.zeros((texts, *shape), dtype=torch.int16, device=self._device)
            for name, shape in self._shapes.items()
        }
        with torch.inference_mode():
            # Padding comes after all that could see it, so no mask is needed beside the causal one.
            self._model(input_ids=batch.ids.to(self._device), use_cache=False)
        found, self._found = self._found, {}  # of one batch only, there is room for them
        return {name: of_name.cpu().numpy().view(np.uint16) for name, of_name in found.items()}

    def _see(self, group: str, at: int, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        del module, inputs
        positive = (output.view(*self._real.shape, -1) > 0) & self._real[:, :, None]
        # Measured on CPU: sums of truth values take five times as long as sums of bytes.
        self._found[group][:, at] = positive.view(torch.uint8).sum(dim=1, dtype=torch.int32)

    def _see_chosen(self, at: int, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden, chosen, _ = inputs
        taken = hidden.new_zeros(len(chosen), self._shapes[EXPERT_GROUP][1]).scatter_(1, chosen, 1.0)
        self._see(EXPERT_GROUP, at, module, inputs, taken)

    def _see_expert(
        self, at: int, expert: int, token: torch.Tensor, gate: torch.Tensor, activation: torch.Tensor
    ) -> None:
        del gate
        found = self._found["routed"][:, at, expert]
        # Sums of ones are exact in float32.
        counts = torch.zeros(len(found) + 1, found.shape[1], device=self._device)
        counts.index_add_(0, self._text[token], (activation > 0).float())
        found.copy_(counts[:-1])


class HookedCheckpoint:
    """`HookedModel` of a checkpoint on CPU in float32, which reads texts."""

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._hooked = HookedModel(load_torch(directory), groups, batch_tokens)

    @property
    def filled(self) -> float:
        """As in `HookedModel`."""
        return self._hooked.filled

    def count(self, texts: list[str]) -> Counts:
        """As `HookedModel.count`."""
        return self._hooked.count(self._tokenizer(texts)["input_ids"])


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


def observe_experts(experts: Any, see: SeeExpert) -> None:
    """Patches the expert loop of transformers, so that what each expert does can be seen.

    Args:
      experts: the fused experts of a layer.
      see: is called with each expert that has tokens, these tokens (rising), gate_proj(x) and act_fn(gate_proj(x)).
    """
    project = _clamped_experts if hasattr(experts, "alpha") else _gated_experts

    def forward(hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output = torch.zeros_like(hidden)
        routed = chosen.flatten()
        # A device is asked once for a layer, and not for each expert, how many tokens there are.
        sizes = torch.bincount(routed, minlength=experts.num_experts).tolist()
        for expert, mine in enumerate(routed.argsort(stable=True).split(sizes)):
            if len(mine):
                token = mine // chosen.shape[1]
                gate, activation, result = project(experts, expert, hidden[token])
                see(expert, token, gate, activation)
                output.index_add_(0, token, (result * weights.flatten()[mine, None]).to(output.dtype))
        return output

    experts.forward = forward


def _gated_experts(experts: Any, expert: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """gate_proj(x), act_fn of it and the output of an expert, in families that have an ordinary gate."""
    gate, up = torch.nn.functional.linear(x, experts.gate_up_proj[expert]).chunk(2, dim=-1)
    activation = experts.act_fn(gate)
    return gate, activation, torch.nn.functional.linear(activation * up, experts.down_proj[expert])


def _clamped_experts(experts: Any, expert: int, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same in gpt-oss, whose weights lie the other way, gate and up in turns."""
    both = x @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
    gate = both[:, ::2].clamp(max=experts.limit)
    up = both[:, 1::2].clamp(-experts.limit, experts.limit)
    activation = gate * torch.sigmoid(gate * experts.alpha)
    return gate, activation, (up + 1) * activation @ experts.down_proj[expert] + experts.down_proj_bias[expert]


def padded_batches(ids: Sequence[Sequence[int] | np.ndarray], batch_tokens: int) -> list[PaddedBatch]:
    """Sorts texts by length and cuts them into batches of at most `batch_tokens` slots, or of one text."""
    batches = []
    rows: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if rows and (len(rows) + 1) * len(ids[row]) > batch_tokens:
            batches.append(_pad(ids, rows))
            rows = []
        rows.append(row)
    return [*batches, _pad(ids, rows)]


def _pad(ids: Sequence[Sequence[int] | np.ndarray], rows: list[int]) -> PaddedBatch:
    lengths = np.asarray([len(ids[row]) for row in rows])
    real = np.arange(lengths.max()) < lengths[:, None]
    padded = np.zeros(real.shape, np.int64)
    padded[real] = np.concatenate([ids[row] for row in rows])
    return PaddedBatch(np.asarray(rows), torch.from_numpy(padded), torch.from_numpy(real))


PEERS: dict[str, Any] = {
    "hooks": HookedCheckpoint,
    "script": Script,
    "nnsight": NNsight,
    "transformer_lens": TransformerLens,
}
"""The peers by name: (directory of the checkpoint, neuron groups, token slots of a batch) -> what counts."""

OPTIONAL = ("nnsight", "transformer_lens")
"""Peers that are packages of their names, which the requirements do not have."""
