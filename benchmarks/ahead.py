"""Compiles the steps of the engine for an accelerator that is not here, and says what memory they take there.

python -m benchmarks.ahead --device=h100|a100|v5p|v5e|v6e [--models=Llama-3.1-8B,config.json,...] [--slots=8192]
    [--rows=128] [--dtype=bfloat16]

Nothing is allocated and nothing runs. What it needs beside JAX for CPU are the compilers: for NVIDIA `pip install
jax-cuda13-plugin jax-cuda13-pjrt nvidia-cuda-nvcc` of the same version as JAX, for TPUs `pip install libtpu`. An
accelerator's compiler refuses what the CPU's takes: a precision, a kernel's layout, an array that does not fit.
"""

import argparse
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

# Before JAX starts: it is to run on CPU, and the TPU's compiler not to ask a cloud where it is.
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from benchmarks import print_table, timed
from benchmarks.accelerator.shapes import SHAPES, decoder_config, small
from sparcom_jax.capture.generate import generate_step
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.causal.likelihood import likelihood_step
from sparcom_jax.engine.placement import Placement
from sparcom_jax.identify.selection import Selection
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import abstract_params
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import Kernels, kernels_for
from sparcom_jax.units.groups import model_groups

GPU = """
platform_name: "CUDA"
device_description_str: "{name}"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 13 minor: 0 patch: 0 }}
gpu_device_info {{
  cuda_compute_capability {{ major: {major} }}
  core_count: {cores}
  clock_rate_ghz: {clock}
  fpus_per_core: {units}
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {shared}
  shared_memory_per_core: {shared_of_core}
  l2_cache_size: {cache}
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
}}
"""
"""A GPU as XLA describes it to itself."""
GPUS = {
    "h100": {"name": "NVIDIA H100 80GB HBM3", "major": 9, "cores": 132, "clock": 1.98, "units": 128, "shared": 232448,
             "shared_of_core": 233472, "cache": 52428800, "bandwidth": 3352320000000, "memory": 84929347584},
    "a100": {"name": "NVIDIA A100-SXM4-80GB", "major": 8, "cores": 108, "clock": 1.41, "units": 64, "shared": 166912,
             "shared_of_core": 167936, "cache": 41943040, "bandwidth": 2039000000000, "memory": 84987740160},
}  # fmt: skip
TPUS = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2"}
NEW_TOKENS = 64


def make_placement(device: str) -> Placement:
    """One device of a kind that is not here."""
    kernels: Kernels
    if device in GPUS:
        # Kernels are not tried out while compiling, because there is nothing to try them on.
        tools = next(
            (Path(path) / "nvidia" / "cu13" for path in sys.path if (Path(path) / "nvidia" / "cu13").exists()), ""
        )
        os.environ["XLA_FLAGS"] = f"--xla_gpu_autotune_level=0 --xla_gpu_cuda_data_dir={tools}"
        described = topologies.get_topology_desc(
            platform="cuda", target_config=GPU.format(**GPUS[device]), topology="1x1x1"
        )
        kernels = kernels_for("gpu", f"{GPUS[device]['major']}.0")
    else:
        described = topologies.get_topology_desc(TPUS[device], platform="tpu")
        kernels = kernels_for("tpu")
    grid = np.asarray(described.devices[:1]).reshape(1, 1)
    return Placement("mesh", Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto)), kernels)


def lowered_steps(config: DecoderConfig, placement: Placement, slots: int, rows: int, dtype: str) -> dict[str, Any]:
    """The steps of the engine: name -> function that lowers it."""
    groups = tuple(model_groups(config))
    shape = Shape(slots, 2048, rows)
    params = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), abstract_params(config))
    kinds = (jnp.int32, jnp.int32, jnp.int32, jnp.bool_, jnp.int32)
    batch = Batch(*(jax.ShapeDtypeStruct((1, slots), kind) for kind in kinds))
    edits: dict[str, Any] = {
        group.name: NeuronEdit(scale=jax.ShapeDtypeStruct((group.shape[0], 1, *group.shape[1:]), jnp.float32))
        for group in groups
    }
    if config.experts:
        edits["expert"] = jax.ShapeDtypeStruct((len(config.moe_layers), 1, config.experts.count), jnp.bool_)
    made = {
        "capture": (capture_step(config, shape, Kept(), placement), None),
        "capture, sets": (capture_step(config, shape, Kept(selection=Selection("frequency")), placement), None),
        "generation": (generate_step(config, shape, NEW_TOKENS, (), placement), None),
        "likelihood": (likelihood_step(config, shape, placement), Edits(**edits)),
    }
    return {name: partial(step.lower, params, batch, extra) for name, (step, extra) in made.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=[*GPUS, *TPUS], default="h100")
    known = ", ".join(SHAPES)
    parser.add_argument("--models", default=",".join(SHAPES), help=f"which, of {known}, or paths of config.json files")
    parser.add_argument("--small", action="store_true", help="the same kinds of models in small")
    parser.add_argument("--slots", type=int, default=8192, help="token slots of a batch")
    parser.add_argument("--rows", type=int, default=128, help="texts that a batch can hold")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16")
    args = parser.parse_args()
    fields = {}
    for name in args.models.split(","):
        try:
            fields[name] = SHAPES.get(name) or json.loads(Path(name).read_text())
        except (OSError, ValueError) as error:
            parser.error(f"--models: {name!r} is neither one of {known} nor a JSON file: {error}")
    placement = make_placement(args.device)
    rows, refused = [], 0
    for name, own in fields.items():
        config = decoder_config(small(own) if args.small else own)
        for step, lower in lowered_steps(config, placement, args.slots, args.rows, args.dtype).items():
            try:
                seconds, program = timed(lambda lower=lower: lower().compile())
            except Exception as error:
                refused += 1
                rows.append((f"{name}: {step}", "", "", "", " ".join(str(error).split())[:120]))
                continue
            memory = program.memory_analysis()
            sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes, memory.output_size_in_bytes)
            rows.append((f"{name}: {step}", *(f"{size / 1e9:.2f}" for size in sizes), f"{seconds:.0f} s"))
    print(f"{args.device}, {args.dtype}, {args.slots:,} slots, {args.rows} texts, {placement.kernels}\n")
    print_table(("step", "arguments, GB", "in between, GB", "results, GB", "compiled in"), rows)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
