"""Times what an ablation repeats, the likelihood of the responses under edits, against a capture of the same tokens.

python -m benchmarks.likelihood [--per-category=5] [--vocabularies=49152,262144] [--rounds=5]

The model has SmolLM2-135M's shape, with random weights. The texts are as long as instructions of the shipped set with
their responses, of which the responses' tokens are scored. Both sides run the same batches.
"""

import argparse
import statistics
from functools import partial

import numpy as np

from benchmarks import print_table, timed
from benchmarks.accelerator.shapes import Fields, decoder_config, random_params
from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.sweep import sweep
from sparcom_jax.instructions.rows import load_hexainst
from sparcom_jax.models.edits import Edits
from sparcom_jax.units.groups import model_groups

SMOLLM2_135M: Fields = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 8192,
    "rope_theta": 100000.0,
    "tie_word_embeddings": True,
}
TOKENS_PER_WORD = 4 / 3
SLOTS = 1024


def make_texts(per_category: int, vocabulary: int) -> TokenizedSet:
    """Random tokens, as many as the first instructions of each category and their responses have."""
    data, random = load_hexainst(), np.random.default_rng(0)
    rows = [row for name in data.categories
            for row in [one for one in data.rows if one["category"] == name][:per_category]]  # fmt: skip
    prompt, response = (np.asarray([round(TOKENS_PER_WORD * len(row[field].split())) + 1 for row in rows], np.int32)
                        for field in ("instruction", "response"))  # fmt: skip
    ids = [random.integers(2, vocabulary, length).astype(np.int32) for length in prompt + response]
    return TokenizedSet(ids, prompt, prompt + response, {})


def measure(vocabulary: int, per_category: int, rounds: int) -> tuple[object, ...]:
    """A row of the table."""
    config = decoder_config(SMOLLM2_135M | {"vocab_size": vocabulary})
    placement = make_placement("pmap", config)
    model = PlacedModel(config, random_params(config, "float32", placement.param_shardings(config)), placement)
    texts = make_texts(per_category, vocabulary)
    (block,) = make_plan(texts.lengths, len(texts.ids), SLOTS).blocks
    batches = list(feeds(texts, block, placement.data, texts.counting))
    step = partial(capture_step, config, kept=Kept(), placement=placement)
    likelihood = Likelihood(model, texts, [str(text) for text in range(len(texts.ids))], SLOTS)
    nothing = Edits.switch_off({group.name: np.zeros(group.shape, bool) for group in model_groups(config)})
    jobs = {
        "capture": lambda: list(sweep(model, batches, step)),
        "likelihood": lambda: likelihood.mean_nll(nothing, ""),
    }
    for job in jobs.values():
        job()
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            seconds[name].append(timed(job)[0])
    capture, scored = (statistics.median(seconds[name]) for name in jobs)
    share = texts.counted.sum() / texts.lengths.sum()
    return (
        f"{vocabulary:,}",
        texts.lengths.sum(),
        f"{share:.0%}",
        f"{capture:.2f}",
        f"{scored:.2f}",
        f"{scored / capture:.2f}",
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-category", type=int, default=5)
    parser.add_argument("--vocabularies", default="49152,262144")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    rows = [measure(int(vocabulary), args.per_category, args.rounds) for vocabulary in args.vocabularies.split(",")]
    print_table(("vocabulary", "tokens", "scored", "capture s", "likelihood s", "ratio"), rows)


if __name__ == "__main__":
    main()
