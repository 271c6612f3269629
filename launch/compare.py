"""Compares the sets of two models over the same instructions.

launch/compare.py --base=RUN --tuned=RUN [--set=frequency] --output=DIR
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command

_BASE = flags.DEFINE_string("base", None, "run of the base model: a path, gs:// or s3://", required=True)
_TUNED = flags.DEFINE_string("tuned", None, "run of the tuned model, or of any other", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_SET = flags.DEFINE_string("set", "frequency", "name of the sets that identify wrote in both runs")
_RHO = flags.DEFINE_float("rho", 0.5, "share of a category's instructions that must hold a core unit, in (0, 1]")
_PERMUTATIONS = flags.DEFINE_integer("permutations", 1000, "most relabellings in the test of a matrix correlation")
_BOOTSTRAPS = flags.DEFINE_integer("bootstraps", 1000, "bootstrap samples of the instructions")
_SEED = flags.DEFINE_integer("seed", 0, "seed of all draws", lower_bound=0)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.compare import compare
    from sparcom_jax.store.run import open_run

    compare(open_run(_BASE.value), open_run(_TUNED.value), Path(_OUTPUT.value), set_name=_SET.value, rho=_RHO.value,
            permutations=_PERMUTATIONS.value, bootstraps=_BOOTSTRAPS.value, seed=_SEED.value)  # fmt: skip
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
