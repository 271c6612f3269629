"""Overflows, made on purpose in a known place of a known text: each is refused by name, in whatever placement."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sparcom_jax as sj
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture import capture as capture_module
from sparcom_jax.capture.generate import GenerateSettings, generate
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.faults import ALL_FINITE, first_fault
from sparcom_jax.models.layers import Norm
from sparcom_jax.select.cores import core
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.run import open_run
from tests import checkpoints

ROOT = Path(__file__).resolve().parents[2]
SMALL = CaptureSettings(rows_per_block=8)
HALF = ExecutionSettings(batch_tokens=512, dtype="float16")
FULL = dataclasses.replace(HALF, dtype="float32")
capture = partial(capture_module.capture, execution=HALF)
MARK = "~"
TRY_HALF = r"; try --config\.execution\.dtype=bfloat16 or float32$"

Spoil = Callable[[dict[str, np.ndarray]], None]


def scaled(factor: float, *endings: str) -> Spoil:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        names = [name for name in tensors if name.endswith(tuple(f"{ending}.weight" for ending in endings))]
        assert names
        for name in names:
            tensors[name] *= factor

    return spoil


def layer(number: int, *parts: str) -> tuple[str, ...]:
    return tuple(f"layers.{number}.{part}" for part in parts)


def spoilt(directory: Path, source: Path, spoil: Spoil) -> ModelDir:
    """A copy of a checkpoint with other weights, converted."""
    (directory / "hf").mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (directory / "hf" / file.name).write_bytes(file.read_bytes())
    tensors = {name: value.copy() for name, value in load_file(source / "model.safetensors").items()}
    spoil(tensors)
    save_file(tensors, directory / "hf" / "model.safetensors", {"format": "pt"})
    return convert(directory / "hf", directory / "model")


def rows(count: int = 12, marked: tuple[int, ...] = (6,)) -> InstructionSet:
    """Instructions of which the marked ones alone have a token of the mark, in their midst."""
    words = " ".join(checkpoints.TEXT).split()
    found = []
    for row in range(count):
        text = [words[(7 * row + place) % len(words)] for place in range(4 + row)]
        if row in marked:
            text[2] += MARK
        found.append({"id": f"r{row}", "category": "AB"[row % 2], "instruction": " ".join(text), "response": "Yes."})
    return InstructionSet("rows", found, ["A", "B"])


def mark(model_dir: Path) -> int:
    tokenizer = json.loads((model_dir / "tokenizer.json").read_text())
    return int(tokenizer["model"]["vocab"][MARK])


def refused(
    model: ModelDir, path: Path, message: str, settings: CaptureSettings = SMALL, execution: ExecutionSettings = HALF
) -> None:
    with pytest.raises(InputError, match=message):
        capture(model, rows(), path, settings, Selection("frequency"), execution=execution)
    assert not open_run(path).done.any()


def marked_values(source: Path) -> Spoil:
    """The mark alone has something in the first place of the stream, of which the first layer makes huge values."""

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        embedding = tensors["model.embed_tokens.weight"]
        embedding[:, 0] = 0.0
        embedding[mark(source)] = 0.0
        embedding[mark(source), 0] = 1.0
        tensors["model.layers.0.self_attn.v_proj.weight"][:, 0] = 6e4

    return spoil


LLAMA: dict[str, tuple[Spoil, str]] = {
    "the stream after an MLP": (scaled(1e4, *layer(1, "mlp.up_proj", "mlp.down_proj")), "layer 1"),
    "the stream after attention": (scaled(3e4, *layer(1, "self_attn.v_proj", "self_attn.o_proj")), "layer 1"),
    "a gate": (scaled(1e5, *layer(0, "mlp.gate_proj")), "layer 0"),
    "a gate of the last layer": (scaled(1e5, *layer(2, "mlp.gate_proj")), "layer 2"),
    "a norm and an MLP": (
        scaled(300.0, *layer(1, "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")),
        "layer 1",
    ),
    "queries": (scaled(1e5, *layer(1, "self_attn.q_proj")), "layer 1"),
    "the embedding": (scaled(1e6, "embed_tokens"), "the embedding"),
}


@pytest.mark.parametrize(("case", "placement"), [
    *((case, "pmap") for case in LLAMA),
    ("a gate of the last layer", "mesh:2"),
    ("the stream after an MLP", "mesh:4"),
])  # fmt: skip
def test_a_layer_that_overflows(case: str, placement: str, hf_llama: Path, tmp_path: Path) -> None:
    spoil, place = LLAMA[case]
    execution = dataclasses.replace(HALF, placement=placement)
    message = rf"^not finite in float16: instruction r\d+ \({place}\), .*{TRY_HALF}"
    refused(spoilt(tmp_path, hf_llama, spoil), tmp_path / "run", message, execution=execution)


def one_expert(number: int) -> Spoil:
    """Only one expert, on one device of a mesh, and only its gate in the last layer."""
    return scaled(1e6, *layer(3, f"mlp.experts.{number}.gate_proj"))


def one_logit(tensors: dict[str, np.ndarray]) -> None:
    """The logits of one expert become minus infinity: it is never chosen, and all that is computed is finite."""
    tensors["model.embed_tokens.weight"][:, 0] = 100.0
    tensors["model.layers.2.mlp.gate.weight"][5] = 0.0
    tensors["model.layers.2.mlp.gate.weight"][5, 0] = -6e4


MOE: dict[str, tuple[Spoil, str]] = {
    "first expert": (one_expert(0), "layer 3"),
    "last expert": (one_expert(7), "layer 3"),
    "expert in the midst": (scaled(1e6, *layer(2, "mlp.experts.3.down_proj")), "layer 2"),
    "shared expert": (scaled(1e6, *layer(3, "mlp.shared_expert.gate_proj")), "layer 3"),
    "router logit": (one_logit, "layer 2"),
}


@pytest.mark.parametrize("case", MOE)
@pytest.mark.parametrize(("placement", "keep"), [("pmap", "counts"), ("mesh:4", "counts"), ("mesh:1", "sets")])
def test_experts_that_overflow(case: str, placement: str, keep: str, hf_moe: Path, tmp_path: Path) -> None:
    spoil, place = MOE[case]
    settings, execution = dataclasses.replace(SMALL, keep=keep), dataclasses.replace(HALF, placement=placement)
    message = rf"^not finite in float16: instruction r\d+ \({place}\)"
    refused(spoilt(tmp_path, hf_moe, spoil), tmp_path / "run", message, settings, execution)


def test_only_what_is_counted_of_the_last_layer(hf_llama: Path, tmp_path: Path) -> None:
    """Nothing else of its MLP is computed."""
    model = spoilt(tmp_path, hf_llama, scaled(1e6, *layer(2, "mlp.up_proj")))
    gates = capture(model, rows(), tmp_path / "gate", SMALL)
    gates.require_complete()
    product = dataclasses.replace(SMALL, convention="product")
    refused(model, tmp_path / "product", r"instruction r\d+ \(layer 2\)", product)


@pytest.mark.parametrize("placement", ["pmap", "mesh:4"])
def test_a_text_does_not_reach_another(hf_llama: Path, placement: str, tmp_path: Path) -> None:
    """The texts share a batch, and a weight of 0 times infinity is NaN."""
    model = spoilt(tmp_path, hf_llama, marked_values(hf_llama))
    settings, execution = CaptureSettings(rows_per_block=16), dataclasses.replace(HALF, placement=placement)
    refused(model, tmp_path / "run", r"^not finite in float16: instruction r6 \(layer 0\); try", settings, execution)
    without = capture(model, rows(marked=()), tmp_path / "without", settings, execution=execution)
    without.require_complete()


def test_a_token_that_overflows(hf_llama: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][mark(hf_llama)] *= 1e7

    model = spoilt(tmp_path, hf_llama, spoil)
    refused(model, tmp_path / "run", rf"^not finite in float16: instruction r6 \(the embedding\){TRY_HALF}",
            CaptureSettings(rows_per_block=16))  # fmt: skip
    two = rows(marked=(6, 9))
    with pytest.raises(InputError, match=r"instruction r6 \(the embedding\), r9 \(the embedding\); try"):
        capture(model, two, tmp_path / "two", CaptureSettings(rows_per_block=16))


def test_squares_that_overflow_in_float32(hf_llama: Path, tmp_path: Path) -> None:
    """The values are finite, but a norm would make zeros of them."""
    model = spoilt(tmp_path, hf_llama, scaled(1e25, *layer(1, "self_attn.o_proj")))
    message = r"^not finite in float32: instruction r\d+ \(layer 1\), .*; the weights themselves lead there$"
    refused(model, tmp_path / "run", message, execution=FULL)
    norm = Norm(4, 1e-6, "rms")
    assert np.isnan(norm(jnp.full((1, 4), 1e20))).all()
    assert np.isfinite(norm(jnp.full((1, 4), 1e18))).all()


def test_the_first_point_of_each_text() -> None:
    finite = np.ones((5, 8), bool)
    finite[3, 1] = finite[2, 2] = finite[4, 2] = finite[0, 7] = False  # the last slot is padding
    row = np.asarray([0, 0, 1, 1, 1, 2, 2, 4], np.int32)
    found = first_fault(jnp.asarray(finite), jnp.asarray(row), 4)
    assert found.tolist() == [3, 2, ALL_FINITE, ALL_FINITE]


def continued(model: ModelDir, path: Path, new: int = 3) -> TokenizedSet:
    placement = make_placement("mesh:4", model.config)
    params = model.restore(placement.param_shardings(model.config), "float16")
    ids = [np.asarray([0, 7, 9 + row], np.int32) for row in range(3)]
    texts = TokenizedSet(ids, np.zeros(3, np.int32), np.full(3, 3, np.int32), {})
    settings = GenerateSettings(new, (), 512, 8)
    return generate(lambda: PlacedModel(model.config, params, placement), texts, ["a", "b", "c"], Store(path), settings)


@pytest.mark.parametrize(("spoil", "place"), [
    (scaled(1e6, "lm_head"), "the output head"),
    (scaled(1e6, *layer(2, "mlp.down_proj")), "layer 2"),
    (scaled(1e6, *layer(1, "mlp.gate_proj")), "layer 1"),
], ids=["logits", "last layer", "layer in the midst"])  # fmt: skip
def test_a_continuation_that_is_no_number(spoil: Spoil, place: str, hf_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"float16: instruction a \({place}\), b \({place}\), c \({place}\){TRY_HALF}"
    ):
        continued(spoilt(tmp_path, hf_llama, spoil), tmp_path / "run")


def test_a_capture_of_continuations_that_are_no_numbers(hf_llama: Path, tmp_path: Path) -> None:
    """Nothing of the block is kept, and the same command ends in the same way."""
    model = spoilt(tmp_path, hf_llama, scaled(1e6, "lm_head"))
    settings = dataclasses.replace(SMALL, scope="generated", new_tokens=2)
    for _ in range(2):
        with pytest.raises(InputError, match=rf"instruction r0 \(the output head\), .*{TRY_HALF}"):
            capture(model, rows(), tmp_path / "run", settings)
        with pytest.raises(InputError, match="capture is incomplete"):
            open_run(tmp_path / "run").require_complete()
    capture(model, rows(), tmp_path / "full", settings, execution=FULL).require_complete()


def test_a_continuation_that_ceases_to_be_numbers(hf_llama: Path, llama: ModelDir, tmp_path: Path) -> None:
    """The second new token of one text, read by a later turn, has an embedding that overflows."""
    plain = continued(llama, tmp_path / "plain")
    made = [ids[3:].tolist() for ids in plain.ids]
    row, token = next((row, one[1]) for row, one in enumerate(made) if sum(one[1] in other for other in made) == 1
                      and one[1] != one[0] and one[1] not in (0, 7, 9, 10, 11))  # fmt: skip

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][token] *= 1e7

    model = spoilt(tmp_path, hf_llama, spoil)
    with pytest.raises(InputError, match=rf"float16: instruction {'abc'[row]} \(the embedding\); try"):
        continued(model, tmp_path / "run")
    assert [ids[3:].tolist() for ids in continued(model, tmp_path / "fewer", new=2).ids] == [one[:2] for one in made]


def cancelling(tensors: dict[str, np.ndarray]) -> None:
    """Of two neurons of the first layer each would overflow alone."""
    for name in ("gate_proj", "up_proj"):
        weight = tensors[f"model.layers.0.mlp.{name}.weight"]
        weight[:2] = 0.0
        weight[:2, 0] = 20.0
    tensors["model.embed_tokens.weight"][:, 0] = 5.0
    down = tensors["model.layers.0.mlp.down_proj.weight"]
    down[:, 0], down[:, 1] = 3e4, -3e4


@pytest.mark.parametrize("placement", ["pmap", "mesh:2"])
def test_a_model_that_lacks_a_neuron(placement: str, hf_llama: Path, tmp_path: Path) -> None:
    model = spoilt(tmp_path, hf_llama, cancelling)
    placed = make_placement(placement, model.config)
    params = model.restore(placed.param_shardings(model.config), "float16")
    ids = [np.arange(2, 9 + row, dtype=np.int32) for row in range(3)]
    lengths = np.asarray([len(text) for text in ids], np.int32)
    texts = TokenizedSet(ids, lengths - 2, lengths, {})
    likelihood = Likelihood(PlacedModel(model.config, params, placed), texts, "abc", 128)
    off = np.zeros((3, 80), bool)
    assert np.isfinite(likelihood.mean_nll(Edits.switch_off({"mlp": off}), "")).all()
    off[0, 1] = True
    message = r"^not finite in float16 with one off: instruction a \(layer 0\), b \(layer 0\), c \(layer 0\); try "
    with pytest.raises(InputError, match=message + r"--config\.execution\.dtype=bfloat16 or float32$"):
        likelihood.mean_nll(Edits.switch_off({"mlp": off}), " with one off")


def test_an_ablation_names_what_was_off(llama: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = capture(llama, rows(), tmp_path / "run", SMALL, execution=FULL)
    units = core(sj.identify(run, epsilon=0.2), 0.3)
    original = Intervention.edits
    scale: Any = np.full((3, 1, 80), np.inf, np.float32)
    infinite = Edits(mlp=NeuronEdit(scale))

    def edits(self: Intervention, off: dict[str, np.ndarray], category: int = 0) -> Edits:
        return infinite if any(mask.any() for mask in off.values()) else original(self, off, category)

    settings, execution = AblationSettings(draws=1, measured="all"), ExecutionSettings(dtype="bfloat16")
    monkeypatch.setattr(Intervention, "edits", edits)
    with pytest.raises(InputError, match=r"bfloat16 with the core neurons of A switched off: instruction r\d+ \(layer "
                                         r"0\), .*; try --config\.execution\.dtype=float32$"):  # fmt: skip
        ablate(llama, run, units, tmp_path / "out", settings, execution)
    monkeypatch.setattr(Intervention, "edits", lambda *of: infinite)
    with pytest.raises(InputError, match="with nothing switched off: instruction r0"):
        ablate(llama, run, units, tmp_path / "out", settings, execution)
    assert not (tmp_path / "out" / "summary.json").exists()


def test_as_a_command(hf_llama: Path, tmp_path: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.embed_tokens.weight"][mark(hf_llama)] *= 1e7

    spoilt(tmp_path, hf_llama, spoil)
    lines = [json.dumps(row) for row in rows().rows]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")

    def run(output: str, dtype: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(ROOT / "launch" / "capture.py"), "--model=model", "--instructions=rows.jsonl",
             f"--output={output}", f"--config.execution.dtype={dtype}", "--config.capture.rows_per_block=2",
             "--config.execution.batch_tokens=256"],
            cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": ""},
        )  # fmt: skip

    for _ in range(2):
        result = run("half", "float16")
        assert result.returncode == 2
        assert result.stderr.splitlines()[-1] == (
            "error: not finite in float16: instruction r6 (the embedding); "
            "try --config.execution.dtype=bfloat16 or float32"
        )
        assert "Traceback" not in result.stderr
        assert not open_run(tmp_path / "half").done[6:].any()
    with pytest.raises(InputError, match="capture is incomplete"):
        open_run(tmp_path / "half").require_complete()
    assert run("full", "float32").returncode == 0
    open_run(tmp_path / "full").require_complete()
