"""Each model family against transformers: logits, signs and routing in float32 and bfloat16, and lines of code.

python -m benchmarks.families [--count=20] [--family=NAME]

Tiny random checkpoints of all the shapes that the parity tests use, on instructions of the shipped set. Half precision
rounds differently on both sides; its figures say how much a sign depends on that.
"""

import argparse
import importlib
import inspect

import jax

import sparcom_jax as sj
from benchmarks import print_table, workspace
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.verify.verify import Verification, verify
from tests import checkpoints
from tests.families import CASES

MAX_WORDS = 60


def lines_of_code(family: str) -> int:
    """Lines of the family's own file, without blank ones."""
    module = importlib.import_module(f"sparcom_jax.convert.families.{family.removesuffix('_text')}")
    return sum(bool(line.strip()) for line in inspect.getsource(module).splitlines())


def short_instructions() -> InstructionSet:
    """Shipped instructions that the tiny models' positions hold."""
    shipped = sj.load_hexainst()
    rows = [row for row in shipped.rows if len(row["instruction"].split()) <= MAX_WORDS]
    return InstructionSet(shipped.source, rows, shipped.categories)


def summary(outcomes: list[Verification]) -> list[str]:
    """Largest error of the logits, flip rate, share of tokens routed alike."""
    layers = [one for outcome in outcomes for one in outcome.layers]
    flips, activations = sum(one.flips for one in layers), sum(one.activations for one in layers)
    tokens, rerouted = sum(one.tokens for one in layers), sum(one.rerouted for one in layers)
    return [
        f"{max(outcome.logits_error for outcome in outcomes):.1e}",
        f"{1 - flips / activations:.6%}",
        f"{1 - rerouted / tokens:.4%}" if tokens else "-",
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20, help="instructions for each checkpoint")
    parser.add_argument("--family", choices=list(CASES), help="only this one")
    arguments = parser.parse_args()
    texts = short_instructions()
    rows = []
    with workspace(None) as work:
        left_out = []
        for family in [arguments.family] if arguments.family else CASES:
            outcomes: dict[str, list[Verification]] = {"float32": [], "bfloat16": []}
            for case, fields in CASES[family].items():
                positions = {"max_position_embeddings": 4096} if "max_position_embeddings" not in fields else {}
                source = checkpoints.save_model(work / f"{family}-{case}-hf", family, **positions, **fields)
                model = convert(source, work / f"{family}-{case}")
                if model.config.max_positions < 4096:
                    left_out.append(f"{family} {case}")  # made for texts beyond its positions, which verifying refuses
                    continue
                for dtype, of in outcomes.items():
                    of.append(verify(model, source, texts, arguments.count, dtype))
                jax.clear_caches()  # hundreds of compiled programs would use up the memory maps of a process
            rows.append([family, str(len(outcomes["float32"])), *summary(outcomes["float32"]),
                         *summary(outcomes["bfloat16"]), str(lines_of_code(family))])  # fmt: skip
    print_table(
        ["family", "shapes", "fp32 logits", "signs", "routing", "bf16 logits", "signs", "routing", "lines"], rows
    )
    if left_out:
        print("left out, as the texts are longer than the positions: " + ", ".join(left_out))


if __name__ == "__main__":
    main()
