"""What things show of themselves, as text and as HTML."""

from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.display import Display, counts
from sparcom_jax.store.attribution import open_attribution
from sparcom_jax.store.manifest import USUAL_CAPTURE, changed_capture
from sparcom_jax.store.units import origin_of, write_units
from tests.synthetic import MIXED, make_run, random_masks, write_attribution, write_sets

HOSTILE = "<script>alert('x')</script>&\""


class Checked(HTMLParser):
    """Balanced tags of a few kinds, without scripts; the text within."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "strong", "table", "tr", "td", "th"}
        assert {name for name, _ in attributes} <= {"style"}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_text_and_html_hold_the_same() -> None:
    shown = Display(
        f"T {HOSTILE}", [("name", HOSTILE), ("b", "1")], ["one", HOSTILE], [["x", HOSTILE], ["long one", "y"]]
    )
    page = Checked(shown.html())
    assert page.text == [f"T {HOSTILE}", "name", HOSTILE, "b", "1", "one", HOSTILE, "x", HOSTILE, "long one", "y"]
    assert shown.text().splitlines() == [
        f"T {HOSTILE}", f"  name  {HOSTILE}", "  b     1", f"  one       {HOSTILE}", f"  x         {HOSTILE}",
        "  long one  y",
    ]  # fmt: skip
    assert counts(["A", "B", "C"], [1200, 3, 4], limit=2) == "A 1,200, B 3 and 1 more"


def test_usual_settings_are_the_defaults() -> None:
    assert asdict(sj.CaptureSettings()) == USUAL_CAPTURE
    changed = sj.CaptureSettings(template="chat", count_window=8)
    assert changed_capture(asdict(changed) | {"bos": "x"}) == {"template": "chat", "count_window": 8}


@pytest.fixture
def run(tmp_path: Path) -> sj.Run:
    run = make_run(tmp_path / "run", [0, 1, 1, 2, 1], groups=MIXED, categories=("MATH", HOSTILE, "SUM"))
    write_sets(run, random_masks(run))
    random = np.random.default_rng(0)
    values = {name: random.random((5, *group.shape)).astype(np.float32) for name, group in run.groups.items()}
    write_attribution(run, values, per_category=1)
    score = {name: of[:3] for name, of in values.items()}
    origin = origin_of(run, "auroc", size=9, half=["i0", "i1"], seed=0, expert_size=2)
    units = sj.UnitSet(run.categories, run.groups, score, {name: of > 0.5 for name, of in score.items()}, origin)
    write_units(run, "auroc", units)
    return run


def test_a_run(run: sj.Run) -> None:
    lines = dict(line.strip().split("  ", 1) for line in repr(run).splitlines()[1:])
    lines = {name: value.strip() for name, value in lines.items()}
    assert repr(run).splitlines()[0] == f"Run {run.location}"
    assert lines["model"].startswith("llama, 1,234 parameters, 4 layers of width 8")
    assert lines["groups"] == ("mlp 1 layer x 19, shared 2 layers x 10, routed 2 layers x 3 x 13, expert 2 layers x 3")
    assert lines["instructions"] == f"rows.jsonl: 5 (MATH 1, {HOSTILE} 3, SUM 1)"
    assert lines["capture"] == "as by default"
    assert [lines[name] for name in ("sets", "units", "attribution", "explored")] == ["excess", "auroc", "gradient",
                                                                                      "none"]  # fmt: skip
    page = run._repr_html_()
    assert "<script" not in page
    assert f"rows.jsonl: 5 (MATH 1, {HOSTILE} 3, SUM 1)" in Checked(page).text


def test_a_run_of_which_parts_are_missing(run: sj.Run, tmp_path: Path) -> None:
    begun = make_run(tmp_path / "begun", [0, 1], categories=("A", "B"), done=False)
    assert "2 (A 1, B 1); 2 are not captured yet" in repr(begun)
    for file in Path(begun.location).glob("instruction/*/zarr.json"):
        file.unlink()
    assert "2 of A, B; not captured yet" in repr(sj.open_run(begun.location))


def test_sets(run: sj.Run) -> None:
    sets = sj.open_sets(run.location)
    text = repr(sets)
    assert text.splitlines()[:3] == [
        "Sets 'excess'", f"  run        {run.location}", "  selection  selector=excess, epsilon=0.05, ties=include",
    ]  # fmt: skip
    rows = {line.split()[0]: line for line in text.splitlines()[4:]}
    assert rows.keys() == sets.groups.keys()
    for name, group in sets.groups.items():
        size = sets.size(name)
        assert f"{np.median(size):,.0f} ({np.median(size) / group.unit_count:.1%})" in rows[name]
        assert rows[name].endswith(f"{size.min()} to {size.max()}")
    Checked(sets._repr_html_())
    for file in Path(run.location).glob("sets/excess/*/size/zarr.json"):
        file.unlink()
    assert "cannot be read" in repr(sets)


def test_units(run: sj.Run) -> None:
    units = sj.open_units(run, "auroc")
    lines = repr(units).splitlines()
    assert lines[0] == "UnitSet 'auroc'"
    assert [line.split(None, 1) for line in lines[1:3]] == [
        ["selector", "auroc"],
        ["asked", "for  size=9, expert_size=2"],
    ]
    assert lines[3].split() == ["chosen", "by", "2", "instructions"]
    assert lines[5].split() == ["category", "mlp", "shared", "routed", "expert", "first", "units"]
    first = units.table("MATH", top=4)
    counted = [str(int(units.mask[name][0].sum())) for name in units.groups]
    named = [", ".join(first.unit[(first.group == "expert") == experts]) for experts in (False, True)]
    assert lines[6].split(None, 5) == ["MATH", *counted, "; ".join(named)]
    assert HOSTILE in Checked(units._repr_html_()).text
    assert "<script" not in units._repr_html_()


def test_others(run: sj.Run, llama: ModelDir, moe: ModelDir) -> None:
    made = open_attribution(run, "gradient")
    assert "the first 1 of each category" in repr(made)
    assert "shared 3 layers x 40, routed 3 layers x 8 x 24" in repr(moe)
    rows = sj.load_hexainst()
    assert repr(rows).splitlines()[1].split(None, 1)[1] == (
        "1,200 (CLS 200, CODE 200, QA 200, GEN 200, MATH 200, SUM 200)"
    )
    things: list[Any] = [made, llama, moe, rows]
    for thing in things:
        assert len(repr(thing).splitlines()) < 8
        Checked(thing._repr_html_())
