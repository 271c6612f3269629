"""Counts what a capture's step sends between the devices that share a model, from the compiled program.

python -m benchmarks.communication [--devices=8] [--model-parallel=8] [--slots=2048]

The models are of the size of real ones; nothing of them is allocated, only the step is compiled, for CPU devices that
are made up. What the program sums over the devices is the same wherever it runs.
"""

import argparse
import math
import re
from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import print_table
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.convert.hf_config import translate
from sparcom_jax.engine.placement import Placement, make_placement
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import abstract_params

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
LLAMA_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
QWEN_MOE = {
    "model_type": "qwen2_moe",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 4,
}
MIXTRAL_47B = {
    "model_type": "mixtral",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
MODELS = {
    "Llama-2-7B's shape": LLAMA_7B,
    "Qwen1.5-MoE-A2.7B's, with 64 experts": QWEN_MOE,
    "Mixtral-8x7B's (47B)": MIXTRAL_47B,
}


def compiled_step(config: DecoderConfig, placement: Placement, shape: Shape) -> Any:
    """The step of a capture, compiled for parameters and batches that do not exist."""
    step: Any = capture_step(config, shape, Kept(), placement)

    def slots(dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((placement.data, shape.slots), dtype)

    batch = Batch(*(slots(dtype) for dtype in (jnp.int32, jnp.int32, jnp.int32, jnp.bool_, jnp.int32)))
    return step.lower(abstract_params(config), batch, None).compile()


def sent_values(program: str) -> Counter[str]:
    """Values that each kind of collective takes in a run of a program, on one device.

    Args:
      program: optimised HLO as text; every loop that has a collective in it has a known trip count.
    """
    bodies = dict(re.findall(r"^(?:ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", program, re.MULTILINE | re.DOTALL))
    entry = re.search(r"^ENTRY %?([\w.\-]+)", program, re.MULTILINE)
    assert entry is not None

    def of(name: str) -> Counter[str]:
        total: Counter[str] = Counter()
        for line in bodies[name].splitlines():
            for kind in COLLECTIVES:
                if found := re.search(rf"= (\(?[^=]*?) {kind}(-start)?\(", line):
                    total[kind] += sum(_size(shape) for shape in re.findall(r"\w+\[([\d,]*)\]", found[1]))
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            for inner in re.findall(r"(?:body|to_apply|calls)=%?([\w.\-]+)", line):
                for kind, values in of(inner).items():
                    assert trips or "body=" not in line, f"a loop of unknown length has a collective in it: {line}"
                    total[kind] += values * (int(trips[1]) if trips else 1)
            if branches := re.search(r"branch_computations=\{([^}]*)\}", line):
                assert not any(of(inner.strip(" %")) for inner in branches[1].split(",")), "a branch has a collective"
        return total

    return of(entry[1])


def _size(shape: str) -> int:
    return math.prod(int(axis) for axis in shape.split(",") if axis)


def parameter_values(config: DecoderConfig, placement: Placement) -> int:
    """Parameters that one device holds."""
    shardings = jax.tree.leaves(placement.param_shardings(config))
    leaves = jax.tree.leaves(abstract_params(config))
    pairs = zip(shardings, leaves, strict=True)
    return sum(math.prod(sharding.shard_shape(leaf.shape)) for sharding, leaf in pairs)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=8)
    parser.add_argument("--model-parallel", type=int, default=8)
    parser.add_argument("--slots", type=int, default=2048)
    args = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", args.devices)
    table = []
    for name, raw in MODELS.items():
        config = translate(raw)
        placement = make_placement(f"mesh:{args.model_parallel}", config)
        sent = sent_values(compiled_step(config, placement, Shape(args.slots, 512, 64)).as_text())
        held = parameter_values(config, placement)
        each = sum(sent.values()) / args.slots
        kinds = ", ".join(sorted(sent)) or "none"
        table.append((name, f"{held / 1e9:.2f}e9", kinds, f"{each:,.0f}", f"{each / config.width:.1f}"))
    columns = ("", "parameters a device", "collectives", "values a token", "over the width")
    print(f"{args.model_parallel} devices share a model")
    print_table(columns, table)


if __name__ == "__main__":
    main()
