"""Four virtual CPU devices, strict JAX, no network, and one converted model of each kind for the whole session."""

import atexit
import os
import shutil
import tempfile

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # Workers and the commands that tests run compile much the same programs. A bound makes JAX lock the directory.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="sparcom-compiled-")
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(4 << 30)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import json
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from sparcom_jax.convert.model_dir import ModelDir, convert
from tests import checkpoints

jax.config.update("jax_numpy_dtype_promotion", "strict")

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "public"


@pytest.fixture(scope="module", autouse=True)
def _drop_compiled_programs() -> Iterator[None]:
    """Thousands of them would use up the memory maps that a process may have."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def hf_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.llama(tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture(scope="session")
def hf_moe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.qwen2_moe(tmp_path_factory.mktemp("hf") / "moe", mlp_only_layers=[0], num_hidden_layers=4)


@pytest.fixture(scope="session")
def llama(hf_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    return convert(hf_llama, tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def moe(hf_moe: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    return convert(hf_moe, tmp_path_factory.mktemp("models") / "moe")


@pytest.fixture(scope="session")
def instruction_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 instructions of very different lengths in three categories."""
    path = tmp_path_factory.mktemp("data") / "instructions.jsonl"
    words = " ".join(checkpoints.TEXT).split()
    with path.open("w") as file:
        for i in range(48):
            count = 1 + (i * 37) % 29 + (150 if i % 11 == 0 else 0)
            text = " ".join(words[(i * 7 + j * (1 + i % 3)) % len(words)] for j in range(count))
            row = {"id": f"r{i}", "category": "ABC"[i % 3], "instruction": text, "response": words[i % len(words)]}
            file.write(json.dumps(row) + "\n")
    return path
