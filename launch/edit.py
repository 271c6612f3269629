"""Switches the units of a category off in a checkpoint, scales them or takes some out, for whatever loads it.

launch/edit.py --source=HF_DIR_OR_HUB_ID --run=RUN --units=NAME --category=CATEGORY --output=HF_DIR
               [--how=zero|scale|mean] [--alpha=0.5] [--model=MODEL_DIR] [--target=neurons|experts]
               [--experts=zero|mask] [--prune=16]
launch/edit.py --source=HF_DIR_OR_HUB_ID --units=FILE.safetensors --category=CATEGORY --output=HF_DIR ...
"""

from absl import flags

from sparcom_jax.command import run_command

_SOURCE = flags.DEFINE_string("source", None, "Hugging Face directory, or id of a model on the hub", required=True)
_UNITS = flags.DEFINE_string("units", None, "name of the units, below RUN/units/, or a file of units", required=True)
_CATEGORY = flags.DEFINE_string("category", None, "whose units are edited", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory to make", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that chose the units; without it, --units is a file")
_HOW = flags.DEFINE_enum(
    "how", "zero", ["zero", "scale", "mean"], "what units write: nothing, alpha times as much, or that at their mean"
)
_ALPHA = flags.DEFINE_float("alpha", 0.0, "factor of scale")
_TARGET = flags.DEFINE_enum("target", "neurons", ["neurons", "experts"], "which of the units are edited")
_EXPERTS = flags.DEFINE_enum("experts", "zero", ["zero", "mask"], "experts write nothing, or are never chosen")


_PRUNE = flags.DEFINE_integer("prune", 0, "instead, so many units of every layer are taken out")
_MODEL = flags.DEFINE_string("model", None, "for --how=mean, the model converted, which reads the run's instructions")


def main() -> None:
    """Runs the command."""
    import jax

    from sparcom_jax.edit.edit import edit
    from sparcom_jax.edit.settings import EditSettings
    from sparcom_jax.summaries.models import edited
    from sparcom_jax.summaries.screen import show

    if _HOW.value != "mean":
        jax.config.update("jax_platforms", "cpu")  # reads and writes files; an accelerator has no part in it
    settings = EditSettings(_TARGET.value, _HOW.value, _ALPHA.value, _EXPERTS.value, _PRUNE.value)
    record = edit(_SOURCE.value, _UNITS.value, _CATEGORY.value, _OUTPUT.value, settings, run=_RUN.value,
                  model=_MODEL.value)  # fmt: skip
    show(edited(record, _OUTPUT.value))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
