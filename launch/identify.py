"""Finds the instruction-specific neurons and experts of a run.

launch/identify.py --run=RUN [--epsilon=0.05] [--ties=include] [--selector=frequency] [--name=frequency]
"""

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.identify.select import identify
from sparcom_jax.store.run import open_run

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_NAME = flags.DEFINE_string("name", "frequency", "name of the sets, below RUN/sets/")
_SELECTOR = flags.DEFINE_enum("selector", "frequency", ["frequency", "threshold"], "top share, or least frequency")
_EPSILON = flags.DEFINE_float("epsilon", 0.05, "share of the units of a group, in (0, 1]")
_THRESHOLD = flags.DEFINE_float("threshold", 0.9, "least activation frequency, in (0, 1]")
_TIES = flags.DEFINE_enum("ties", "include", ["include", "drop", "exact"], "what happens to units that tie at the cut")
_POOL = flags.DEFINE_bool("pool", False, "cut all neuron groups together")
_PER_LAYER = flags.DEFINE_integer("expert_per_layer", 0, "experts taken in each layer; 0: as many as a token takes")
_EXPERT_EPSILON = flags.DEFINE_float("expert_epsilon", 0.0, "take a top share of all experts instead, if above 0")


def main() -> None:
    """Runs the command."""
    identify(open_run(_RUN.value), name=_NAME.value, selector=_SELECTOR.value, epsilon=_EPSILON.value,
             threshold=_THRESHOLD.value, ties=_TIES.value, pool=_POOL.value, expert_per_layer=_PER_LAYER.value,
             expert_epsilon=_EXPERT_EPSILON.value)  # fmt: skip
    print(f"{_RUN.value}/sets/{_NAME.value}")


if __name__ == "__main__":
    run_command(main)
