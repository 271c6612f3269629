"""Makes one HTML page, readable offline, of all that evaluate, compare, ablate and align wrote below a directory.

launch/report.py --results=DIR --output=report.html [--figures=DIR2] [--preset=text] [--only=PATTERN,...]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command

_RESULTS = flags.DEFINE_string("results", None, "directory that is searched for results", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the page", required=True)
_FIGURES = flags.DEFINE_string("figures", None, "directory for charts as SVG and PDF, and captions (default: none)")
_PRESET = flags.DEFINE_enum("preset", "text", ["column", "text"], "how wide these are: 3.25 or 6.75 inches")
_ONLY = flags.DEFINE_list("only", [], "patterns of their names, such as *-effects (default: all)")


def main() -> None:
    """Runs the command."""
    from sparcom_jax.report.page import report
    from sparcom_jax.summaries.screen import show
    from sparcom_jax.summaries.studies import summary_of_all

    figures = Path(_FIGURES.value) if _FIGURES.value else None
    page = report(Path(_RESULTS.value), Path(_OUTPUT.value), figures, preset=_PRESET.value, only=_ONLY.value)
    show(summary_of_all(f"report: {page}", Path(_RESULTS.value), page))
    print(page)


if __name__ == "__main__":
    run_command(main)
