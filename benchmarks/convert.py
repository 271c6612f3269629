"""Measures the memory that a conversion needs, against the size of the checkpoint.

python -m benchmarks.convert [--layers=30] [--single]

The checkpoint is a bfloat16 Llama of random weights, written tensor by tensor and without torch, so that this program
stays small: the peak of a command is never reported below that of the program that started it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import ROOT, print_table, workspace
from benchmarks.models import read_texts, save_tokenizer

ITEM_BYTES = 2
PIECE = 1 << 24
ONE = 0x3F80
KEPT, EXPONENT = 0x81FF, 0x3A00
"""Random bits with two random bits of exponent: bfloat16 numbers of either sign, 2^-11 to 2^-7 in size."""

Shapes = dict[str, tuple[int, ...]]


def llama_config(args: argparse.Namespace) -> dict[str, object]:
    """The content of config.json."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "vocab_size": args.vocab,
        "hidden_size": args.width,
        "intermediate_size": args.neurons,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.heads,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }


def llama_shapes(vocab: int, width: int, neurons: int, layers: int) -> Shapes:
    """Names and shapes of the tensors."""
    layer = {
        "input_layernorm": (width,),
        "self_attn.q_proj": (width, width),
        "self_attn.k_proj": (width, width),
        "self_attn.v_proj": (width, width),
        "self_attn.o_proj": (width, width),
        "post_attention_layernorm": (width,),
        "mlp.gate_proj": (neurons, width),
        "mlp.up_proj": (neurons, width),
        "mlp.down_proj": (width, neurons),
    }
    return {
        "model.embed_tokens.weight": (vocab, width),
        **{f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in layer.items()},
        "model.norm.weight": (width,),
        "lm_head.weight": (vocab, width),
    }


def write_weights(directory: Path, shapes: Shapes, shard_bytes: int) -> None:
    """Writes random weights as safetensors.

    Args:
      directory: where the files go.
      shapes: names and shapes of the tensors.
      shard_bytes: the most that a file holds, unless one tensor is larger; 0 writes one file without an index.
    """
    shards: list[Shapes] = [{}]
    for name, shape in shapes.items():
        if shard_bytes and shards[-1] and _bytes({**shards[-1], name: shape}) > shard_bytes:
            shards.append({})
        shards[-1][name] = shape
    generator = np.random.default_rng(0)
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if not shard_bytes:
        files = ["model.safetensors"]
    for file, shard in zip(files, shards, strict=True):
        write_safetensors(directory / file, shard, generator)
    if shard_bytes:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": _bytes(shapes)}, "weight_map": weight_map}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_safetensors(path: Path, shapes: Shapes, generator: np.random.Generator) -> None:
    """Writes one file: the length of the header, the header, the tensors one after another."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    stop = 0
    for name, shape in shapes.items():
        start, stop = stop, stop + _bytes({name: shape})
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with path.open("wb") as file:
        file.write(len(content).to_bytes(8, "little") + content)
        for name, shape in shapes.items():
            for piece in random_weights(name, shape, generator):
                piece.tofile(file)


def random_weights(name: str, shape: tuple[int, ...], generator: np.random.Generator) -> Iterator[np.ndarray]:
    """The bits of a tensor in pieces: ones for a norm, otherwise small numbers of either sign."""
    size = int(np.prod(shape))
    for start in range(0, size, PIECE):
        count = min(PIECE, size - start)
        if "norm" in name:
            yield np.full(count, ONE, "<u2")
        else:
            bits = generator.integers(0, 1 << 16, count, np.uint16)
            bits &= KEPT
            bits |= EXPONENT
            yield bits.astype("<u2", copy=False)


def _bytes(shapes: Shapes) -> int:
    return sum(int(np.prod(shape)) * ITEM_BYTES for shape in shapes.values())


def peak(who: int) -> int:
    """Largest resident set so far, in bytes: of this process, or of the largest of those that it waited for."""
    return resource.getrusage(who).ru_maxrss * 1024


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30, help="30 layers of the other defaults make 5.1 GB")
    parser.add_argument("--width", type=int, default=2560)
    parser.add_argument("--neurons", type=int, default=6912)
    parser.add_argument("--heads", type=int, default=20)
    parser.add_argument("--vocab", type=int, default=32000)
    parser.add_argument("--shard-mb", type=int, default=1000, help="largest file of a sharded checkpoint")
    parser.add_argument("--single", action="store_true", help="one file instead of shards with an index")
    parser.add_argument("--workdir", type=Path, help="where temporary files go: twice the size of the checkpoint")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    shapes = llama_shapes(args.vocab, args.width, args.neurons, args.layers)
    with workspace(args.workdir) as work:
        source = work / "hf"
        source.mkdir()
        (source / "config.json").write_text(json.dumps(llama_config(args), indent=1))
        save_tokenizer(source, read_texts("hexainst"), args.vocab)
        write_weights(source, shapes, 0 if args.single else args.shard_mb * 1_000_000)
        files = sorted(source.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        own = peak(resource.RUSAGE_SELF)
        start = time.perf_counter()
        command = [sys.executable, "launch/convert.py", f"--source={source}", f"--output={work / 'model'}"]
        subprocess.run(command, check=True, cwd=ROOT)
        seconds = time.perf_counter() - start
        converted = peak(resource.RUSAGE_CHILDREN)
        written = sum(file.stat().st_size for file in (work / "model").rglob("*") if file.is_file())
    gb = 1e9
    print(f"\n{sum(np.prod(shape) for shape in shapes.values()):,} parameters in {len(files)} files\n")
    print_table(
        ("", "GB", "over checkpoint"),
        [
            ("checkpoint", f"{size / gb:.3f}", "1.000"),
            ("converted model", f"{written / gb:.3f}", f"{written / size:.3f}"),
            ("peak memory of launch/convert.py", f"{converted / gb:.3f}", f"{converted / size:.3f}"),
            ("peak memory of this program", f"{own / gb:.3f}", f"{own / size:.3f}"),
        ],
    )
    print(f"{seconds:.1f} s")


if __name__ == "__main__":
    main()
