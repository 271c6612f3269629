"""Edited and pruned checkpoints in transformers against the edits of the forward pass, of every family, in float32.

python -m benchmarks.edits [--family=NAME]

Tiny random checkpoints of all kinds of MLP that the parity tests use, edited by `edit` and read by transformers. The
figures are the largest error of a logit, relative to the largest logit; `-`: refused, as the format cannot say it, or
no such units.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

from benchmarks import print_table, workspace
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.edit.edit import edit
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.edits import Edits
from sparcom_jax.units.groups import EXPERT_GROUP
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.edits import TEXT, edits_of, forward_of, removed, scored, unit_set
from tests.families import CASES, MLPS

EDITS = {
    "neurons zero": EditSettings(),
    "neurons x -1.5": EditSettings(how="scale", alpha=-1.5),
    "experts zero": EditSettings("experts"),
    "experts x 0.5": EditSettings("experts", "scale", 0.5),
    "experts mask": EditSettings("experts", experts="mask"),
    "prune neurons": EditSettings(prune=1),
    "prune experts": EditSettings("experts", prune=1),
}


def errors(family: str, case: str, work: Path) -> list[str]:
    """One for each edit."""
    source = checkpoints.save_model(work / "hf", family, **CASES[family][case])
    model = convert(source, work / "model")
    forward, chosen, ranked = forward_of(model), unit_set(model), scored(model)
    found = []
    for name, settings in EDITS.items():
        output = work / name.replace(" ", "-")
        if settings.target == "experts" and EXPERT_GROUP not in chosen.groups:
            found.append("-")
            continue
        try:
            edit(source, ranked if settings.prune else chosen, "B", output, settings)
        except InputError:
            found.append("-")
            continue
        if settings.prune:
            expected = forward(Edits.switch_off(removed(ranked, settings.target)))
        else:
            expected = forward(edits_of(model, chosen, settings))
        logits = np.asarray(Reference(output).run(TEXT, {})["logits"])
        found.append(f"{np.abs(logits - expected).max() / np.abs(expected).max():.1e}")
    jax.clear_caches()  # hundreds of compiled programs would use up the memory maps of a process
    return found


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=list(CASES), help="only this one")
    arguments = parser.parse_args()
    rows = []
    for family, case in MLPS:
        if arguments.family in (None, family):
            with workspace(None) as work:
                rows.append([f"{family} {case}", *errors(family, case, work)])
    print_table(["model", *EDITS], rows)


if __name__ == "__main__":
    main()
