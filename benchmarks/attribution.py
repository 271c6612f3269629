"""Attribution of single neurons beside what switching each of them off really does.

python -m benchmarks.attribution [--source=.cache/SmolLM2-135M-Instruct.Q4_1.gguf] [--units=500] [--per-category=1]
    [--steps=16]

The texts are those instructions of the shipped set, of each category, that are shortest with their response. Of every
layer equally many neurons are taken: half of them those of the largest mean attribution by `gradient`, whatever its
sign, half at random from the others. True is the log likelihood of the response less that with the one neuron at 0.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64
from scipy.stats import pearsonr, spearmanr

from benchmarks import ROOT, print_table, timed, workspace
from sparcom_jax.attribution.attribute import attribute
from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.causal.texts import texts_of
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.instructions.rows import InstructionSet, load_hexainst
from sparcom_jax.models.edits import Edits
from sparcom_jax.progress import progress
from sparcom_jax.store.run import Run

WEIGHTS = ROOT / ".cache/SmolLM2-135M-Instruct.Q4_1.gguf"
EXECUTION = ExecutionSettings()

Units = Int64[np.ndarray, "N"]


def shortest(per_category: int) -> InstructionSet:
    """The instructions that are scored."""
    data = load_hexainst()
    ordered = sorted(data.rows, key=lambda row: len(row["instruction"]) + len(row["response"]))
    rows = [row for name in data.categories
            for row in [one for one in ordered if one["category"] == name][:per_category]]  # fmt: skip
    return InstructionSet("shortest", rows, data.categories)


def chosen(values: Float[np.ndarray, "I L F"], count: int) -> tuple[Units, Units, np.ndarray]:
    """Layers and neurons, about so many in all, and which of them are of high attribution."""
    random = np.random.default_rng(0)
    layers, half = values.shape[1], max(count // (2 * values.shape[1]), 1)
    found = []
    for of_layer in np.abs(values.mean(axis=0)):
        order = np.argsort(-of_layer, kind="stable")
        found.append(np.concatenate([order[:half], random.choice(order[half:], half, replace=False)]))
    return (
        np.repeat(np.arange(layers), 2 * half),
        np.concatenate(found),
        np.tile(np.repeat([True, False], half), layers),
    )


def losses_without(model: ModelDir, run: Run, layers: Units, neurons: Units) -> Float[np.ndarray, "N I"]:
    """What each response loses of its log likelihood with one neuron at 0."""
    placed = place_model(model, make_placement(EXECUTION.placement, model.config), "float32")
    names = [row["id"] for row in run.instructions]
    texts = texts_of(model, run, np.arange(len(names)))
    likelihood = Likelihood(placed, texts, names, EXECUTION.batch_tokens)

    def nll(*off: tuple[int, int]) -> Float[np.ndarray, "I"]:
        mask = np.zeros(run.groups["mlp"].shape, bool)
        for at in off:
            mask[at] = True
        return likelihood.mean_nll(Edits.switch_off({"mlp": mask}), "")

    whole, found = nll(), []
    with progress("switch off", len(layers), "neurons") as bar:
        for at in zip(layers.tolist(), neurons.tolist(), strict=True):
            found.append(nll(at) - whole)
            bar.advance()
    return np.stack(found)


def main() -> None:
    """Prints the correlations over the units, of the mean of the texts and of each category."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, default=WEIGHTS)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--per-category", type=int, default=1)
    parser.add_argument("--steps", type=int, default=AttributeSettings.steps)
    asked = parser.parse_args()
    values, seconds = {}, {}
    with workspace(None) as directory:
        model = convert(asked.source, directory / "model")
        run = capture(model, shortest(asked.per_category), directory / "run", CaptureSettings(template="chat"))
        for settings in (AttributeSettings(), AttributeSettings("integrated", asked.steps)):
            seconds[settings.method], made = timed(lambda how=settings: attribute(model, run, how))
            values[settings.method] = np.asarray(made.value("mlp").read().result())
        category = run.category
        layers, neurons, high = chosen(values["gradient"], asked.units)
        true = losses_without(model, run, layers, neurons)
    every, whole = slice(None), np.ones(len(layers), bool)
    targets = {"mean": (every, whole), "mean, high": (every, high), "mean, others": (every, ~high)}
    targets |= {name: (category == index, whole) for index, name in enumerate(run.categories)}
    rows = []
    for target, (texts, units) in targets.items():
        expected = true[units][:, texts].mean(axis=1)
        for method, found in values.items():
            said = found[:, layers[units], neurons[units]][texts].mean(axis=0)
            correlations = [f"{how(said, expected).statistic:.3f}" for how in (pearsonr, spearmanr)]
            rows.append((target, method, int(units.sum()), *correlations, f"{said @ expected / (said @ said):.2f}"))
    print(f"{len(run.instructions)} texts; " + ", ".join(f"{name} {one:.0f} s" for name, one in seconds.items()))
    print_table(("target", "method", "units", "pearson", "spearman", "true / said"), rows)


if __name__ == "__main__":
    main()
