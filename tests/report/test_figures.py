"""Figures for a paper: their names, their width, the size of their text, and what is asked for."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.report.figures import LEAST_POINTS, WIDTHS
from sparcom_jax.report.page import report
from tests.synthetic_results import ABLATE, write_ablation


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("results")
    write_ablation(root / ABLATE)
    return root


@pytest.mark.parametrize("preset", WIDTHS)
def test_they_are_as_wide_as_the_preset_with_text_of_seven_points(results: Path, tmp_path: Path, preset: str) -> None:
    report(results, tmp_path / "report.html", tmp_path / "figures", preset=preset)
    drawn = sorted((tmp_path / "figures").glob("*.svg"))
    stems = {path.stem for path in drawn}
    assert {"ablate-neurons-change", "ablate-neurons-effects", "ablate-neurons-doses"} <= stems
    assert {path.stem for path in (tmp_path / "figures").glob("*.pdf")} == stems
    for path in drawn:
        svg = path.read_text()
        width = re.search(r'width="([0-9.]+)pt"', svg)
        box = re.search(r'viewBox="0 0 ([0-9.]+) ', svg)
        assert width is not None
        assert box is not None
        assert float(width[1]) == pytest.approx(WIDTHS[preset] * 72, rel=0.01)
        sizes = [float(size) for size in re.findall(r'font-size="([0-9.]+)px"', svg)]
        assert sizes
        assert min(sizes) * float(width[1]) / float(box[1]) >= LEAST_POINTS * 0.99, path.name
        pdf = path.with_suffix(".pdf").read_bytes()
        page = re.search(rb"/MediaBox\s*\[\s*[0-9.]+ [0-9.]+ ([0-9.]+)", pdf)
        assert page is not None
        assert float(page[1]) == pytest.approx(WIDTHS[preset] * 72, rel=0.01)
        assert b"/FontFile" in pdf
    captions = (tmp_path / "figures/captions.md").read_text()
    assert [line.removeprefix("## ") for line in captions.splitlines() if line.startswith("## ")] == [
        path.stem for path in sorted(drawn, key=lambda path: captions.index(f"## {path.stem}\n"))
    ]
    assert "nats per token" in captions


def test_only_what_is_asked_for(results: Path, tmp_path: Path) -> None:
    report(results, tmp_path / "report.html", tmp_path / "figures", only=["*-effects"])
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"captions.md", *(f"ablate-{target}-effects.{suffix}" for target in ("neurons", "experts")
                                      for suffix in ("svg", "pdf"))}  # fmt: skip
    shutil.rmtree(tmp_path / "figures")
    with pytest.raises(
        InputError, match=r"no figure is named 'effect'; of 7 there are such as ablate-[a-z]+-effects, "
    ):
        report(results, tmp_path / "other.html", tmp_path / "figures", only=["effect"])
    assert not (tmp_path / "other.html").exists()
    with pytest.raises(InputError, match="preset 'slide' is not known; known: column, text"):
        report(results, tmp_path / "other.html", tmp_path / "figures", preset="slide")


def test_fonts_are_embedded(results: Path, tmp_path: Path) -> None:
    if shutil.which("pdffonts") is None:
        pytest.skip("pdffonts, which lists the fonts of a PDF, is not installed")
    report(results, tmp_path / "report.html", tmp_path / "figures", only=["ablate-neurons-effects"])
    listed = subprocess.run(["pdffonts", str(tmp_path / "figures/ablate-neurons-effects.pdf")], capture_output=True,
                            text=True, check=True).stdout.splitlines()[2:]  # fmt: skip
    assert listed
    assert all(line.split()[-5] == "yes" for line in listed)
