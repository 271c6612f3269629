"""A model of the hub, served on loopback: what is brought, and what is left there."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from sparcom_jax.convert.model_dir import ModelDir, open_model
from tests.convert.test_checkpoint import shards

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).resolve().parents[2]


class Hub:
    """The part of the hub's interface that a download asks for, over one directory."""

    def __init__(self, directory: Path) -> None:
        self.brought: set[str] = set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def do_HEAD(self) -> None:
                self.do_GET(body=False)

            def do_GET(self, body: bool = True) -> None:
                path = self.path.partition("?")[0]
                files = sorted(str(one.relative_to(directory)) for one in directory.rglob("*") if one.is_file())
                if path.startswith("/api/models/org/name/tree/"):
                    tree = [{"type": "file", "path": name, "oid": "0" * 40,
                             "size": (directory / name).stat().st_size} for name in files]  # fmt: skip
                    return self.answer(json.dumps(tree).encode(), body)
                if path.startswith("/api/models/org/name"):
                    siblings = [{"rfilename": name} for name in files]
                    return self.answer(
                        json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode(), body
                    )
                name = path.partition(f"/resolve/{COMMIT}/")[2]
                if name not in files:
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound")
                    self.end_headers()
                    return None
                if body:
                    outer.brought.add(name)
                return self.answer((directory / name).read_bytes(), body)

            def answer(self, content: bytes, body: bool) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()
                if body:
                    self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def repository(hf_llama: Path, tmp_path: Path) -> Path:
    directory = Path(shutil.copytree(hf_llama, tmp_path / "repository"))
    (directory / "original").mkdir()
    for name in ("original/model.safetensors", "consolidated.safetensors", "pytorch_model.bin", "README.md"):
        (directory / name).write_bytes(b"not to be brought")
    return directory


@pytest.fixture
def hub(repository: Path) -> Iterator[Hub]:
    served = Hub(repository)
    yield served
    served.close()


def convert_from(hub: Hub, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache"),
                                "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(ROOT)}  # fmt: skip
    command = [
        sys.executable,
        str(ROOT / "launch" / "convert.py"),
        "--source=org/name",
        f"--output={tmp_path / 'model'}",
    ]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


SMALL = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def test_one_file(hub: Hub, repository: Path, llama: ModelDir, tmp_path: Path) -> None:
    tensors = load_file(repository / "model.safetensors")
    shards(repository, tensors)  # beside the single file, which transformers prefers
    done = convert_from(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.brought == SMALL | {"model.safetensors"}
    assert open_model(tmp_path / "model").digest == llama.digest


def test_shards(hub: Hub, repository: Path, llama: ModelDir, tmp_path: Path) -> None:
    tensors = load_file(repository / "model.safetensors")
    shards(repository, tensors)
    save_file(tensors, repository / "another.safetensors")
    (repository / "model.safetensors").unlink()
    done = convert_from(hub, tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.brought == SMALL | {"model.safetensors.index.json", "a.safetensors", "b.safetensors"}
    assert open_model(tmp_path / "model").digest == llama.digest


def test_nothing_but_pickles(hub: Hub, repository: Path, tmp_path: Path) -> None:
    (repository / "model.safetensors").unlink()
    done = convert_from(hub, tmp_path)
    assert done.returncode == 2
    assert "org/name: has neither model.safetensors nor model.safetensors.index.json" in done.stderr
    assert "pytorch_model.bin" not in hub.brought
