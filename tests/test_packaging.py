"""What a release holds and says of itself."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import sparcom_jax as sj
from sparcom_jax.console import overview
from sparcom_jax.status import status
from sparcom_jax.version import VERSION
from tests.synthetic import make_run

ROOT = Path(__file__).resolve().parents[1]
APACHE_2 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # of the text at www.apache.org


def test_the_licence_is_the_exact_text_and_named_everywhere() -> None:
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
    for name in ("README.md", "docs/hexainst.md", "setup.py", "CITATION.cff"):
        assert "Apache-2.0" in (ROOT / name).read_text(), name


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a wheel and a source distribution, made of a copy of what they are made of."""
    directory = tmp_path_factory.mktemp("release")
    source = directory / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source)
    for name in ("sparcom_jax", "launch", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return directory


def test_releases_hold_the_licence_the_data_and_all_commands(release: Path) -> None:
    (wheel,), (sdist,) = release.glob("*.whl"), release.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in in_wheel if name.endswith(".dist-info/METADATA"))
    with tarfile.open(sdist) as archive:
        in_sdist = archive.getnames()
    for names in (in_wheel, in_sdist):
        assert any(name.endswith("/LICENSE") for name in names)
        for file in ("instructions/hexainst.jsonl", "report/page.css", "report/charts.js", "report/page.js"):
            assert any(name.endswith(f"sparcom_jax/{file}") for name in names), file
    for folder in ("launch", "configs"):
        files = sorted(path.name for path in (ROOT / folder).glob("*.py"))
        assert [Path(name).name for name in sorted(in_wheel) if name.startswith(f"sparcom_jax/{folder}/")] == files
        assert [Path(name).name for name in sorted(in_sdist) if Path(name).parent.name == folder] == files
    assert {name.split("/")[0] for name in in_wheel} == {"sparcom_jax", f"sparcom_jax-{VERSION}.dist-info"}
    described = Parser().parsestr(metadata)
    assert described["License"] == "Apache-2.0"
    assert described["Description-Content-Type"] == "text/markdown"
    assert described.get_payload() == (ROOT / "README.md").read_text()
    assert described["Project-URL"] == "Paper of the method, https://arxiv.org/abs/2505.21191"
    assert "Programming Language :: Python :: 3.11" in described.get_all("Classifier", [])
    assert described["Requires-Python"] == ">=3.11"


@pytest.fixture(scope="module")
def installed(release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment that has the wheel, and what it depends on from this environment."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(environment, symlinks=True)
    python = environment / "bin/python"
    (wheel,) = release.glob("*.whl")
    install = ["-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([sys.executable, *install, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return environment / "bin"


def test_a_wheel_works_without_a_clone(installed: Path, tmp_path: Path) -> None:
    """In an empty directory, with nothing that names the clone."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [installed / program, *arguments], cwd=tmp_path, env=outside, capture_output=True, text=True
        )

    def sparcom(*arguments: str) -> str:
        done = run("sparcom", *arguments)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    assert sparcom("--version") == f"sparcom_jax {VERSION}\n"
    assert sparcom("--help") == f"{overview()}\n"
    assert sparcom("capture", "--help").splitlines()[2].startswith("sparcom capture --model=MODEL_DIR ")
    made = make_run(tmp_path / "run", [i % 3 for i in range(24)])
    for config in ((), ("--config=demo",), ("--config=configs/default.py",)):
        done = run("sparcom", "identify", "--run=run", "--ties=exact", *config)
        assert (done.returncode, done.stdout) == (0, "run/sets/excess\n"), done.stderr
    assert sj.open_sets(made, "excess").manifest.selection["ties"] == "exact"
    assert sparcom("status", "run") == f"{status(str(tmp_path / 'run'))}\n".replace(f"{tmp_path}/", "")
    modules = "sparcom_jax, sparcom_jax.launch.identify, sparcom_jax.configs.default"
    places = "sparcom_jax.__file__, sparcom_jax.launch.identify.__file__, sparcom_jax.configs.default.__file__"
    where = run("python", "-c", f"import {modules}; print({places}, sep='\\n')")
    assert where.returncode == 0, where.stderr
    (packages,) = installed.parent.glob("lib/python*/site-packages")
    assert where.stdout.splitlines() == [
        str(packages / "sparcom_jax" / file) for file in ("__init__.py", "launch/identify.py", "configs/default.py")
    ]


def test_citation_and_changelog_are_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert citation["version"] == VERSION
    assert citation["authors"] == [{"name": "The sparcom_jax authors"}]
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2505.21191"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "## [Unreleased]" in changelog
    assert f"## [{VERSION}] - {citation['date-released']}" in changelog
