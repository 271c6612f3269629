"""Measures generality and uniqueness of the units of every category.

launch/evaluate.py --run=RUN [--set=frequency] --output=DIR
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_SET = flags.DEFINE_string("set", "frequency", "name of the sets that identify wrote")
_RHO = flags.DEFINE_float("rho", 0.5, "share of a category's instructions that must hold a core unit, in (0, 1]")
_PERMUTATIONS = flags.DEFINE_integer("permutations", 1000, "shuffles of the labels, for each null model")
_BOOTSTRAPS = flags.DEFINE_integer("bootstraps", 1000, "bootstrap samples of the instructions")
_STRATA = flags.DEFINE_integer("strata", 5, "strata of length in the length-controlled null model")
_SEED = flags.DEFINE_integer("seed", 0, "seed of all draws", lower_bound=0)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.evaluate import evaluate
    from sparcom_jax.store.run import open_run

    evaluate(open_run(_RUN.value), Path(_OUTPUT.value), set_name=_SET.value, rho=_RHO.value, strata=_STRATA.value,
             permutations=_PERMUTATIONS.value, bootstraps=_BOOTSTRAPS.value, seed=_SEED.value)  # fmt: skip
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
