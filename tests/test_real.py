"""A real language model, from the file that `make weights` brings: SmolLM2-135M-Instruct."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.export import save_tensors
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.instructions.rows import InstructionSet, load_hexainst
from sparcom_jax.settings import checked, default_config
from sparcom_jax.study import analyze
from sparcom_jax.verify.verify import verify

WEIGHTS = Path(__file__).resolve().parents[1] / ".cache" / "SmolLM2-135M-Instruct.Q4_1.gguf"
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not WEIGHTS.exists(), reason="no weights of a real model; `make weights` could not bring them"),
    pytest.mark.filterwarnings("ignore"),  # transformers, of the kernels that it would rather have
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    return convert(WEIGHTS, tmp_path_factory.mktemp("real") / "model")


def some(per_category: int) -> InstructionSet:
    rows = load_hexainst()
    kept = [[row for row in rows.rows if row["category"] == name][:per_category] for name in rows.categories]
    return InstructionSet(rows.source, [row for of in kept for row in of], rows.categories)


def test_weights_are_those_that_transformers_reads(model: ModelDir, tmp_path: Path) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name, dtype=torch.float32)
    state = {name: tensor.numpy() for name, tensor in theirs.state_dict().items() if name != "lm_head.weight"}
    save_tensors(model.config, model.restore(ONE, "float32"), tmp_path)
    mine = load_file(tmp_path / "model.safetensors")
    assert mine.keys() == state.keys()
    for name, tensor in mine.items():
        np.testing.assert_array_equal(tensor, state[name], err_msg=name)
    assert model.manifest["conversion"]["dequantised"]["tensors"] == {"F32": 61, "Q4_1": 210, "Q8_0": 1}


def test_the_tokenizer_is_the_one_of_the_file(model: ModelDir) -> None:
    theirs, mine = AutoTokenizer.from_pretrained(WEIGHTS.parent, gguf_file=WEIGHTS.name), model.tokenizer()
    for row in load_hexainst().rows:
        text = row["instruction"] + (row["response"] or "")
        if not re.search(r"\s\s\d", text):  # where transformers does not cut digits off before it splits at spaces
            assert mine(text)["input_ids"] == theirs(text)["input_ids"]
    assert mine.convert_ids_to_tokens(mine("a  5 2025")["input_ids"]) == ["a", "ĠĠ", "5", "Ġ", "2", "0", "2", "5"]
    turn = mine.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert turn.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_signs_and_logits_are_those_of_transformers(model: ModelDir) -> None:
    outcome = verify(model, WEIGHTS, load_hexainst(), 60, "float32")
    flips, activations = (sum(getattr(one, field) for one in outcome.layers) for field in ("flips", "activations"))
    print(f"{flips} of {activations} signs, logits {outcome.logits_error:.1e}")
    assert outcome.texts == 60
    assert flips <= 1e-5 * activations
    assert outcome.logits_error <= 1e-4
    assert outcome.faults == []


def test_it_answers(model: ModelDir, tmp_path: Path) -> None:
    rows = [{"id": "france", "category": "QA", "instruction": "What is the capital of France?"}]
    settings = CaptureSettings(template="chat", scope="generated", new_tokens=16)
    run = capture(model, InstructionSet("one", rows, ["QA"]), tmp_path / "run", settings)
    assert "Paris" in run.instructions[0]["generated"]


def test_a_whole_small_study(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in some(6).rows))
    config = default_config()
    config.instructions = str(file)
    config.pairs = {"smollm2": {"tuned": str(WEIGHTS)}}
    config.capture.template = "chat"
    config.evaluate.permutations = config.evaluate.bootstraps = 50
    config.ablate.per_category, config.ablate.draws = 1, 1
    page = analyze(checked(config), tmp_path / "study").read_text()
    assert "SmolLM2-135M-Instruct.Q4_1.gguf" in page
    assert "dequantised" in page
    summary = json.loads((tmp_path / "study" / "results" / "ablate-smollm2-tuned-auroc" / "summary.json").read_text())
    assert all(0.5 < nll < 5 for nll in summary["baseline"])
    assert min(summary["targets"]["neurons"]["units_off"]) > 0
