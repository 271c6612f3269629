"""Finds the instruction-specific neurons and experts of a run.

launch/identify.py --run=RUN [--epsilon=0.05] [--ties=include] [--selector=frequency] [--name=frequency]
"""

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.identify.select import identify
from sparcom_jax.store.run import open_run

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_NAME = flags.DEFINE_string("name", "frequency", "name of the sets, below RUN/sets/")
# A flag that is not given takes what a run that keeps sets was cut by, and else the default that its help names.
_SELECTOR = flags.DEFINE_enum("selector", None, ["frequency", "threshold"], "top share (default), or least frequency")
_EPSILON = flags.DEFINE_float("epsilon", None, "share of the units of a group, in (0, 1]; default 0.05")
_THRESHOLD = flags.DEFINE_float("threshold", None, "least activation frequency, in (0, 1]; default 0.9")
_TIES = flags.DEFINE_enum("ties", None, ["include", "drop", "exact"], "units that tie at the cut; default include")
_POOL = flags.DEFINE_bool("pool", None, "cut all neuron groups together; default false")
_PER_LAYER = flags.DEFINE_integer("expert_per_layer", None, "experts taken in each layer; default: those a token takes")
_EXPERT_EPSILON = flags.DEFINE_float("expert_epsilon", None, "take a top share of all experts instead, if above 0")
_FIELDS = (_SELECTOR, _EPSILON, _THRESHOLD, _TIES, _POOL, _PER_LAYER, _EXPERT_EPSILON)


def main() -> None:
    """Runs the command."""
    given = {flag.name: flag.value for flag in _FIELDS if flag.value is not None}
    identify(open_run(_RUN.value), name=_NAME.value, **given)
    print(f"{_RUN.value}/sets/{_NAME.value}")


if __name__ == "__main__":
    run_command(main)
