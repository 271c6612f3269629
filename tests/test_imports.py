"""Data flows one way: each part of the package may import only the parts named here."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sparcom_jax"
BASE = {"display", "errors", "printable", "progress", "shares", "strict_json", "version"}
MAY_IMPORT = {
    "display": set(),
    "errors": set(),
    "version": set(),
    "printable": set(),
    "progress": {"printable"},
    "shares": set(),
    "strict_json": {"errors"},
    "docstrings": set(),
    "resampling": set(),
    "shipped": set(),
    "config_flag": {"docstrings", "errors", "settings", "shipped"},
    "command": {"config_flag", "errors", "printable", "shipped"},
    "completion": {"config_flag", "errors", "shipped"},
    "status": BASE | {"capture", "engine", "identify", "results", "select", "stages", "store", "units"},
    "console": {"completion", "errors", "shipped", "status", "version"},
    "models": BASE,
    "units": BASE | {"models"},
    "store": BASE | {"units"},
    "instructions": BASE,
    "batches": BASE | {"instructions", "models"},
    "convert": BASE | {"models", "units"},
    "engine": BASE | {"batches", "convert", "models"},
    "identify": BASE | {"store", "units"},
    "select": BASE | {"resampling", "store", "units"},
    "capture": BASE | {"batches", "convert", "engine", "identify", "instructions", "models", "store", "units"},
    "results": BASE,
    "explore": BASE
    | {"batches", "capture", "causal", "convert", "engine", "instructions", "models", "resampling", "store", "units"},
    "tune": BASE
    | {"batches", "causal", "convert", "engine", "identify", "instructions", "models", "resampling", "results"}
    | {"select", "stages", "store", "units"},
    "edit": BASE | {"causal", "convert", "engine", "models", "store", "units"},
    "attribution": BASE | {"batches", "capture", "causal", "convert", "engine", "models", "store", "units"},
    "analysis": BASE | {"identify", "instructions", "resampling", "results", "select", "store", "units"},
    "causal": BASE
    | {"batches", "capture", "convert", "engine", "identify", "instructions", "models", "resampling", "results"}
    | {"select", "store", "units"},
    "summaries": BASE | {"convert", "instructions", "results", "store", "units"},
    "report": BASE | {"results", "settings", "units"},
    "verify": BASE | {"batches", "convert", "engine", "instructions", "models"},
    "demo": BASE | {"batches", "convert", "instructions", "models"},
    "settings": BASE
    | {"analysis", "attribution", "capture", "causal", "engine", "explore", "identify", "select", "store", "tune"},
    "stages": BASE,
    "trainings": None,
    "study": None,
    "__init__": None,
}
AFTER_THE_STORE = ("store", "identify", "select", "results", "analysis", "report")


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[part(path)]
    parts = {name.split(".")[1] for name in imported(path) if name.startswith("sparcom_jax.")}
    assert allowed is None or parts - {part(path)} <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_torch_is_imported_for_verifying_only_and_models_not_after_the_store(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path)}
    assert "torch" not in roots or part(path) == "verify"
    if part(path) in AFTER_THE_STORE:
        assert not roots & {"transformers", "flax", "orbax", "safetensors"}


ONLY_WHERE_USED = (
    "altair",
    "vl_convert",
    "ml_collections",
    "zarr",
    "xarray",
    "pandas",
    "gguf",
    "scipy.stats",
    "torch",
    "beartype",
)


def test_model_capture_and_store_ask_for_little() -> None:
    """A machine that is lent for minutes has JAX and its libraries, and nothing of ours."""
    program = f"""
import sys
from importlib.abc import MetaPathFinder
class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in {ONLY_WHERE_USED}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import sparcom_jax
import sparcom_jax.capture.capture, sparcom_jax.causal.likelihood, sparcom_jax.convert.model_dir
import sparcom_jax.identify.select, sparcom_jax.store.run, sparcom_jax.store.sets
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=PACKAGE.parent)


def test_files_say_one_thing() -> None:
    long = {path.name: lines for path in PACKAGE.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_launchers_are_thin() -> None:
    for launcher in (PACKAGE.parent / "launch").glob("*.py"):
        assert len(launcher.read_text().splitlines()) < 80, launcher
