"""Shows the card of an instruction file, or builds one from public corpora on disk.

launch/hexainst.py --check=hexainst|FILE [--run_code]
launch/hexainst.py --sources=DIR --output=FILE [--per_category=100] [--seed=0] [--blend]
"""

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.build import build, write_rows
from sparcom_jax.instructions.card import make_card, render
from sparcom_jax.instructions.rows import HEXAINST, load_instructions
from sparcom_jax.summaries.instructions import judged
from sparcom_jax.summaries.screen import show

_CHECK = flags.DEFINE_string("check", None, "instruction file to judge, or hexainst; exit 1 where it breaks a rule")
_RUN_CODE = flags.DEFINE_bool(
    "run_code", False, "run the Python that the rows of FILE carry; hexainst's own always runs"
)
_SOURCES = flags.DEFINE_string("sources", None, "directory with the native files of public corpora")
_OUTPUT = flags.DEFINE_string("output", None, "instruction file to make")
_PER_CATEGORY = flags.DEFINE_integer("per_category", 100, "rows of each category from the corpora")
_SEED = flags.DEFINE_integer("seed", 0, "seed of the sample")
_BLEND = flags.DEFINE_bool("blend", False, "add as many shipped rows of each category")


def main() -> None:
    """Runs the command."""
    if (_CHECK.value is None) == (_SOURCES.value is None):
        raise InputError("give either --check=FILE or --sources=DIR with --output=FILE")
    if _CHECK.value is not None:
        card = make_card(load_instructions(_CHECK.value), _RUN_CODE.value or _CHECK.value == HEXAINST)
        print(render(card), flush=True)
        show(judged(_CHECK.value, card))
        raise SystemExit(1 if card.faults else 0)
    if _OUTPUT.value is None:
        raise InputError("--sources needs --output=FILE")
    built = build(_SOURCES.value, _PER_CATEGORY.value, _SEED.value, _BLEND.value)
    write_rows(built.rows, _OUTPUT.value)
    for file in built.files:
        what = f"{file.corpus}: {file.rows} rows, {file.left_out} left out" if file.corpus else "not of a known corpus"
        print(f"{file.path}: {what}")
    for note in built.notes:
        print(note)
    card = make_card(load_instructions(_OUTPUT.value), _RUN_CODE.value)
    print(f"\n{render(card)}", flush=True)
    show(judged(_OUTPUT.value, card))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
