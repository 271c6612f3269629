"""What the devices that share a model send each other, counted in the compiled step."""

from typing import Any

import pytest

from benchmarks.communication import compiled_step, parameter_values, sent_values
from sparcom_jax.convert.hf_config import translate
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.batch import Shape

LAYERS, WIDTH, SLOTS = 5, 32, 256
SIZES = {"vocab_size": 64, "hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": LAYERS,
         "num_attention_heads": 4, "num_key_value_heads": 4}  # fmt: skip
LLAMA = {"model_type": "llama", **SIZES}
QWEN_MOE = {"model_type": "qwen2_moe", **SIZES, "num_experts": 8, "num_experts_per_tok": 2, "mlp_only_layers": [1],
            "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32}  # fmt: skip


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize("raw", [LLAMA, QWEN_MOE], ids=["llama", "qwen2_moe"])
def test_each_layer_sums_the_stream_twice_and_sends_nothing_else(raw: dict[str, Any], parts: int) -> None:
    config = translate(raw)
    placement = make_placement(f"mesh:{parts}", config)
    program = compiled_step(config, placement, Shape(SLOTS, 128, 8)).as_text()
    # Of the last layer's MLP only the gate is computed, so its sum is not needed.
    assert sent_values(program) == {"all-reduce": (2 * LAYERS - 1) * SLOTS * WIDTH}


def test_a_device_holds_its_part_of_the_parameters() -> None:
    config = translate(LLAMA)
    whole, half = (parameter_values(config, make_placement(f"mesh:{parts}", config)) for parts in (1, 2))
    shared = 2 * 64 * WIDTH + (2 * LAYERS + 1) * WIDTH  # embedding, head and norms are whole
    assert half - shared == (whole - shared) // 2


def test_nothing_is_sent_where_each_device_has_the_whole_model() -> None:
    config = translate(LLAMA)
    program = compiled_step(config, make_placement("pmap", config), Shape(SLOTS, 128, 8)).as_text()
    assert not sent_values(program)


def test_loops_are_counted_as_often_as_they_run() -> None:
    program = """HloModule m

%body (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %r = f32[4]{0} all-reduce(%p), to_apply=%add
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (x: f32[4]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %w = f32[4]{0} while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %g = (f32[8]{0}, f32[2,2]{1,0}) all-gather(%w, %w), dimensions={0}
}
"""
    assert sent_values(program) == {"all-reduce": 12, "all-gather": 12}
