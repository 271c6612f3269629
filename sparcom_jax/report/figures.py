"""Figures for a paper: every chart as SVG and PDF, as wide as a column or as the text, and their captions."""

import copy
import difflib
import fnmatch
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import vl_convert

from sparcom_jax.errors import InputError
from sparcom_jax.progress import progress
from sparcom_jax.report.charts import Spec
from sparcom_jax.report.files import write_whole
from sparcom_jax.report.markup import slug
from sparcom_jax.report.parts import Figure
from sparcom_jax.results.reader import Result

WIDTHS = {"column": 3.25, "text": 6.75}
"""Of the presets, in inches."""
COLUMNS = {"column": 1, "text": 2}
"""Panels beside each other."""
LEAST_POINTS = 7.0
"""Size of the smallest text."""
POINTS = 72.0
USUAL_SIZE = 11.0
"""Of most text on the page, in pixels; that of a figure is as much larger or smaller as this."""
LEAST_VIEW, LEAST_HEIGHT = 0.2, 0.55
"""Shares of its width and height that a panel keeps."""
FITTED, ROUNDS, HALVINGS = 0.005, 4, 6
"""Share of the width that it may be off, and how often it is tried to get there."""
FONT_SIZES = ("labelFontSize", "titleFontSize", "fontSize", "subtitleFontSize")
CAPTIONS = "captions.md"


def write_figures(
    shown: Sequence[tuple[Result, Figure]], directory: Path, preset: str = "text", only: Sequence[str] = ()
) -> list[Path]:
    """Writes charts as SVG and PDF, named after their result and what they show, and their captions.

    Args:
      shown: the charts, with the results that they are of.
      directory: where to.
      preset: `column` or `text`: how wide they are.
      only: patterns of names such as `*-effects`; all charts by default.

    Returns:
      The files.

    Raises:
      InputError: the preset is not known, a pattern fits no chart, or they cannot be written there.
    """
    if preset not in WIDTHS:
        raise InputError(f"preset {preset!r} is not known; known: {', '.join(WIDTHS)}")
    named = {name_of(result, figure): figure for result, figure in shown}
    for pattern in only:
        if not fnmatch.filter(named, pattern):
            near = difflib.get_close_matches(pattern, named, n=3, cutoff=0) or ["none"]
            raise InputError(f"no figure is named {pattern!r}; of {len(named)} there are such as {', '.join(near)}")
    chosen = {name: one for name, one in named.items() if not only or any(fnmatch.fnmatch(name, p) for p in only)}
    written: list[Path] = []
    with progress("figures", len(chosen), "figures") as bar:
        for name, one in chosen.items():
            spec, scale = fitted(one.spec, preset)
            svg = vl_convert.vegalite_to_svg(spec)
            # What makes the PDF takes a size without a unit for points, and one in points for larger.
            contents = {
                ".svg": _sized(svg, scale, "pt").encode(),
                ".pdf": vl_convert.svg_to_pdf(_sized(svg, scale, "")),
            }
            for suffix, content in contents.items():
                written.append(directory / f"{name}{suffix}")
                write_whole(written[-1], content)
            bar.advance(1)
    captions = "".join(f"## {name}\n\n{one.caption}\n\nTables: {', '.join(one.sources)}.\n\n"
                       for name, one in chosen.items())  # fmt: skip
    write_whole(directory / CAPTIONS, f"# Captions\n\n{captions}".encode())
    return [*written, directory / CAPTIONS]


def name_of(result: Result, figure: Figure) -> str:
    """Name of the file of a chart, without its suffix."""
    name = "" if result.name == "." else slug(result.name.removeprefix(f"{result.kind}-").removeprefix(result.kind))
    return "-".join(filter(None, (result.kind, name.strip("-"), figure.name)))


def fitted(spec: Spec, preset: str) -> tuple[Spec, float]:
    """A chart that is as wide as the preset once it is scaled, with text of 7 points or more.

    Panels stand below each other where they do not fit, and become narrower with text of the same size. Where all that
    is not a panel is too wide by itself, text has to grow for what the chart is then scaled by.

    Args:
      spec: Vega-Lite.
      preset: a key of `WIDTHS`.

    Returns:
      The chart, and the factor that makes its pixels points.
    """
    target, font = WIDTHS[preset] * POINTS, LEAST_POINTS
    for _ in range(ROUNDS):
        made = _with_fonts(_narrowed(spec, COLUMNS[preset]), font, COLUMNS[preset])
        made = _with_views(made, _share_that_fits(made, target))
        scale = target / _drawn_width(made)
        if font * scale >= LEAST_POINTS * (1 - FITTED):
            break
        font = LEAST_POINTS / scale
    return made, scale


def _share_that_fits(spec: Spec, target: float) -> float:
    """The largest share of their width that panels can have in a chart that is no wider; the least where none is."""
    if _drawn_width(spec) <= target:
        return 1.0
    low, high = LEAST_VIEW, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _drawn_width(_with_views(spec, middle)) <= target else (low, middle)
    return low


def _narrowed(spec: Spec, columns: int) -> Spec:
    """The chart with fewer panels beside each other; facets are small, and stand three beside each other in a text."""
    made = copy.deepcopy(spec)
    if "columns" in made:
        made["columns"] = min(made["columns"], columns if "concat" in made else 2 * columns - 1)
    return made


def _with_fonts(spec: Spec, size: float, columns: int) -> Spec:
    """The chart with text of `size` pixels, that of titles larger in proportion, and legends as wide as they need."""

    def sized(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: sized(one, name) for name, one in value.items() if name != "datasets"}
        if isinstance(value, list):
            return [sized(one) for one in value]
        if key == "orient" and value == "right" and columns == 1:  # where a legend would take the width of a panel
            return "bottom"
        if key == "columns" and value > 3:  # entries of a legend beside each other
            return 3 * columns
        return max(value * size / USUAL_SIZE, size) if key in FONT_SIZES else value

    made: Spec = sized(spec)
    defaults = {"axis": FONT_SIZES[:2], "legend": FONT_SIZES[:2], "header": FONT_SIZES[:2], "title": ("fontSize",)}
    for part, names in defaults.items():
        for name in names:
            made["config"].setdefault(part, {}).setdefault(name, size)
    made["config"]["legend"] |= {"labelLimit": 0, "columns": 2 * columns - 1, "symbolSize": 40}
    return {**made, "datasets": spec["datasets"]}


def _with_views(spec: Spec, share: float) -> Spec:
    """The chart with narrower panels, which do not become lower in the same measure."""

    def narrowed(value: Any) -> Any:
        if isinstance(value, list):
            return [narrowed(one) for one in value]
        if not isinstance(value, dict):
            return value
        made = {name: narrowed(one) for name, one in value.items() if name != "datasets"}
        if "width" in made and ("layer" in made or "mark" in made):
            for side, by in (("width", share), ("height", max(share, LEAST_HEIGHT))):
                size = made[side]
                made[side] = {"step": size["step"] * by} if isinstance(size, dict) else size * by
        return made

    return {**narrowed(spec), "datasets": spec["datasets"]}


def _drawn_width(spec: Spec) -> float:
    return _width(vl_convert.vegalite_to_svg(spec))


def _width(svg: str) -> float:
    found = re.search(r'<svg[^>]*\swidth="([0-9.]+)"', svg)
    assert found is not None, "Vega states the width of what it draws"
    return float(found[1])


def _sized(svg: str, scale: float, unit: str) -> str:
    """The drawing in another size, and what is drawn as it was."""
    head = re.search(r"<svg[^>]*>", svg)
    assert head is not None, "Vega draws one"
    sized = re.sub(
        r'\s(width|height)="([0-9.]+)"', lambda m: f' {m[1]}="{float(m[2]) * scale:.3f}{unit}"', head[0], count=2
    )
    return svg.replace(head[0], sized, 1)
