"""The configs of real models: they load, and what their docstrings say of sizes follows from the published configs."""

import importlib.util
from pathlib import Path
from types import ModuleType

import jax
import pytest

from sparcom_jax.convert.hf_config import translate
from sparcom_jax.models.decoder import abstract_params
from sparcom_jax.units.groups import model_groups
from tests.published import PUBLISHED

OTHERS = ("default", "demo", "smollm2_135m_instruct", "tuning_smollm2")
CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CONFIGS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    parameters, raw = PUBLISHED[name]
    config = translate(raw)
    assert sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config))) == parameters
    text = " ".join((load(name).__doc__ or "").split())
    assert f"{parameters:,} parameters" in text
    assert f"launch/analyze.py --config=configs/{name}.py --output=outputs/{name}" in text
    groups = model_groups(config)
    for group in groups:
        assert f"= {group.unit_count:,}" in text, group.name
    row = sum(2 * group.unit_count for group in groups)
    if config.experts:
        row += 6 * len(config.moe_layers) * config.experts.count
    assert f"{row * 1200 / 1e9:.1f} GB for the 1,200" in text or f"{row * 1200 / 1e6:.0f} MB for the 1,200" in text


def test_every_config_is_of_a_published_model() -> None:
    assert {path.stem for path in CONFIGS.glob("*.py")} == {*PUBLISHED, *OTHERS}


@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_configs_load(name: str) -> None:
    config = load(name).get_config()
    assert all(set(pair) <= {"base", "tuned", "train"} for pair in config.pairs.values())
    assert bool(config.pairs) == (name != "default")
