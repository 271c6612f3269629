"""What a release holds and says of itself."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import yaml

from sparcom_jax.version import VERSION

ROOT = Path(__file__).resolve().parents[1]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text at www.apache.org


def test_the_licence_is_the_exact_text_and_named_everywhere() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    for name in ("README.md", "docs/hexainst.md", "setup.py", "CITATION.cff"):
        assert "Apache-2.0" in (ROOT / name).read_text(), name


def test_releases_hold_the_licence_and_the_data(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sparcom_jax", source / "sparcom_jax", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in in_wheel if name.endswith(".dist-info/METADATA"))
    with tarfile.open(sdist) as archive:
        in_sdist = archive.getnames()
    for names in (in_wheel, in_sdist):
        assert any(name.endswith("/LICENSE") for name in names)
        for file in ("instructions/hexainst.jsonl", "report/page.css", "report/page.js"):
            assert any(name.endswith(f"sparcom_jax/{file}") for name in names), file
    assert re.search(r"^License(-Expression)?: Apache-2.0$", metadata, re.MULTILINE)


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == VERSION
    assert citation["authors"] == [{"name": "The sparcom_jax developers"}]
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.21191"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog
    assert f"## [{VERSION}] - {citation['date-released']}" in changelog
