"""Losses of texts under edits: ours, and those of transformers whose modules are edited by hooks."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from sparcom_jax.batches.packing import Shape, fill
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.context import Compute
from sparcom_jax.models.decoder import Batch, bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.kernels.choice import Kernels, default_kernels
from sparcom_jax.units.groups import model_groups
from sparcom_jax.verify.reference import Reference, _activations
from tests.checkpoints import VOCAB

SHAPE = Shape(slots=256, window=128, rows=8)
LENGTHS = (70, 3, 60, 2, 40, 33)


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, VOCAB, length, np.int32) for length in LENGTHS]


def predicted(length: int) -> slice:
    """The second half of a text, the response, is what a loss is of."""
    return slice(max(length // 2, 1), length)


def batch_of(variants: Sequence[int] | None = None, shape: Shape = SHAPE) -> Batch:
    """All texts; a slot counts where the next token is predicted."""
    counted = [np.zeros(length, bool) for length in LENGTHS]
    for counts, length in zip(counted, LENGTHS, strict=True):
        after = predicted(length)
        counts[after.start - 1 : after.stop - 1] = True
    return jax.tree.map(jnp.asarray, fill(shape, texts(), counted, variants))


def losses(
    config: DecoderConfig,
    params: Any,
    batch: Batch,
    edits: Edits | None,
    kernels: Kernels | None = None,
    axis: str | None = None,
) -> jax.Array:
    """Summed negative log likelihood of each text, [R]."""
    decoder = bind(config, params)
    compute = Compute(axis, kernels or default_kernels())
    output = decoder(batch, SHAPE, edits=edits, compute=compute)
    share = jax.nn.log_softmax(decoder.logits(output.hidden))
    nll = -jnp.take_along_axis(share, jnp.roll(batch.token, -1)[:, None], axis=1)[:, 0]
    return jax.ops.segment_sum(jnp.where(batch.counted, nll, 0.0), batch.row, SHAPE.rows)


class EditedReference:
    """transformers' model in float64 under one variant of edits, and what its neurons did in the last text."""

    def __init__(self, source: Any, config: DecoderConfig) -> None:
        self._reference = Reference(source, torch.float64)
        self._config = config
        self._read: list[tuple[str, tuple[int, ...], torch.Tensor]] = []

    def loss(self, ids: np.ndarray, edits: Edits, variant: int = 0) -> float:
        """As `losses`, of one text."""
        return self._loss(ids, edits, variant).item()

    def attribution(self, ids: np.ndarray, edits: Edits, variant: int = 0) -> dict[str, np.ndarray]:
        """Activation times gradient of the loss, summed over the tokens: group -> [L, ...]."""
        self._loss(ids, edits, variant).backward()
        found = {group.name: np.zeros(group.shape) for group in model_groups(self._config)}
        for group, at, product in self._read:
            assert product.grad is not None
            found[group][at] = (product.detach() * product.grad).sum(0).numpy()
        return found

    def _loss(self, ids: np.ndarray, edits: Edits, variant: int) -> torch.Tensor:
        self._read.clear()
        with self._edited(edits, variant):
            logits = self._reference.model(torch.tensor(ids)[None].long()).logits[0]
        after = predicted(len(ids))
        share = torch.log_softmax(logits[after.start - 1 : after.stop - 1], dim=-1)
        return -share[torch.arange(len(share)), torch.tensor(ids[after]).long()].sum()

    @contextmanager
    def _edited(self, edits: Edits, variant: int) -> Iterator[None]:
        with ExitStack() as stack:
            for group in model_groups(self._config):
                edit: Any = getattr(edits, group.name)
                for index, layer in enumerate(group.layers):
                    scale = 1.0 if edit.scale is None else torch.tensor(np.float64(edit.scale[index, variant]))
                    shift = 0.0 if edit.shift is None else torch.tensor(np.float64(edit.shift[index, variant]))
                    path = f"{self._reference.layer(layer)}.mlp"
                    if group.name == "routed":
                        block = self._reference.model.get_submodule(path)
                        self._edit_experts(block.experts, index, scale, shift)
                        stack.callback(delattr, block.experts, "forward")
                        if edits.expert is not None:
                            self._mask(block.gate, torch.tensor(np.asarray(~edits.expert[index, variant])))
                            stack.callback(delattr, block.gate, "forward")
                    else:
                        mlp = self._reference.shared(path) if group.name == "shared" else path
                        down = self._reference.model.get_submodule(f"{mlp}.down_proj")
                        handle = down.register_forward_pre_hook(self._hook(group.name, index, scale, shift))
                        stack.callback(handle.remove)
            yield

    def _hook(self, group: str, index: int, scale: Any, shift: Any) -> Any:
        def edit(_: Any, inputs: Any) -> Any:
            product = inputs[0].reshape(-1, inputs[0].shape[-1])
            product.retain_grad()
            self._read.append((group, (index,), product))
            return ((scale * product + shift).reshape(inputs[0].shape),)

        return edit

    def _edit_experts(self, experts: Any, index: int, scale: Any, shift: Any) -> None:
        """Makes a block's experts pass one after another over the tokens that are routed to them."""

        def forward(x: torch.Tensor, chosen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            y = torch.zeros_like(x)
            for expert in chosen.unique().tolist():
                token, choice = torch.where(chosen == expert)
                _, product, _ = _activations(experts, expert, x[token])
                product.retain_grad()
                self._read.append(("routed", (index, expert), product))
                edited = product * (scale if isinstance(scale, float) else scale[expert])
                edited = edited + (shift if isinstance(shift, float) else shift[expert])
                y = y.index_add(0, token, edited @ experts.down_proj[expert].T * weight[token, choice, None])
            return y

        experts.forward = forward

    def _mask(self, gate: Any, off: torch.Tensor) -> None:
        def forward(x: torch.Tensor) -> Any:
            logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight)
            weight, chosen = logits.masked_fill(off, -torch.inf).softmax(-1).topk(gate.top_k, dim=-1)
            return logits, weight, chosen

        gate.forward = forward
