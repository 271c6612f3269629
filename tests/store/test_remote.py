"""A run at s3://, on a server that is too busy now and then: the same bytes as a local one, no credentials in them."""

import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from gcp_storage_emulator.server import create_server
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.run import open_run
from tests.ports import free_port

SETTINGS = CaptureSettings(rows_per_block=16)
SECRET = "s3cr3t-of-the-tests"


class Busy:
    """A server of S3 that answers every so many requests with an error."""

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self.every = 0
        self.refused = 0
        self.requests = 0

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        with self._lock:
            self.requests += 1
            busy = self.every and self.requests % self.every == 0
            self.refused += bool(busy)
        if busy:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Slow Down", [("Content-Length", "0")])
            return []
        return self._app(environ, start_response)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Busy]]:
    app = Busy()
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    for name, value in (("AWS_ENDPOINT_URL", endpoint), ("AWS_ACCESS_KEY_ID", "testing"),
                        ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_DEFAULT_REGION", "us-east-1")):  # fmt: skip
        monkeypatch.setenv(name, value)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="bucket")
    yield "s3://bucket", app
    client.close()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    port = free_port()
    monkeypatch.setenv("TENSORSTORE_GCS_HTTP_URL", f"http://127.0.0.1:{port}")
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket="bucket")
    server.start()
    yield "gs://bucket"
    server.stop()


def contents(location: str) -> dict[str, bytes | None]:
    store = Store(location)
    return {name: store.read(name) for name in store.names()}


def test_the_bytes_are_those_of_a_local_run(
    bucket: tuple[str, Busy], llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    root, server = bucket
    instructions = load_instructions(instruction_file)
    server.every = 20
    for location in (f"{root}/runs/one", str(tmp_path / "one")):
        run = capture(llama, instructions, location, SETTINGS)
        run.require_complete()
        sj.identify(run, epsilon=0.1)
    assert server.refused >= 3
    server.every = 0
    remote, local = contents(f"{root}/runs/one"), contents(str(tmp_path / "one"))
    assert remote.keys() == local.keys()
    assert remote == local
    assert not any(SECRET.encode() in (content or b"") for content in remote.values())


def test_the_bytes_of_a_capture_are_the_same_at_google(
    google: str, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    """Of a capture alone: the emulator lists, and so deletes, more than a range of names, which identify asks for."""
    instructions = load_instructions(instruction_file)
    for location in (f"{google}/runs/one", str(tmp_path / "one")):
        capture(llama, instructions, location, SETTINGS).require_complete()
    assert contents(f"{google}/runs/one") == contents(str(tmp_path / "one"))


def test_a_bucket_that_is_not_there(bucket: tuple[str, Busy], llama: ModelDir, instruction_file: Path) -> None:
    with pytest.raises(InputError, match="s3://nowhere/run: "):
        capture(llama, load_instructions(instruction_file), "s3://nowhere/run", SETTINGS)
    with pytest.raises(InputError, match="s3://bucket/none: not a run"):
        open_run("s3://bucket/none")


CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS")


def test_no_network_and_no_credentials(tmp_path: Path) -> None:
    """One line, without what the libraries log of credentials that they do not find."""
    closed = f"127.0.0.1:{free_port()}"
    environment = {name: value for name, value in os.environ.items() if name not in CREDENTIALS} | {
        "AWS_ENDPOINT_URL": f"http://{closed}", "TENSORSTORE_GCS_HTTP_URL": f"http://{closed}",
        "GCE_METADATA_ROOT": closed, "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{closed}", "HOME": str(tmp_path),
    }  # fmt: skip
    launcher = Path(__file__).resolve().parents[2] / "launch" / "identify.py"
    locations = ("s3://bucket/run", "gs://bucket/run")
    commands = [
        subprocess.Popen(
            [sys.executable, launcher, f"--run={location}"], env=environment, stderr=subprocess.PIPE, text=True
        )
        for location in locations
    ]
    for location, process in zip(locations, commands, strict=True):
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 2
        assert errors.startswith(f"error: {location}: the store cannot be reached: ")
        assert errors.count("\n") == 1


@pytest.mark.parametrize("location", ["s3://bucket/run", "gs://bucket/run"])
def test_a_server_that_does_not_answer(location: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparcom_jax.store.arrays.FIRST_CONTACT_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name in ("AWS_ENDPOINT_URL", "TENSORSTORE_GCS_HTTP_URL"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(InputError, match=f"^{location}: the store gives no answer within 1 s$"):
            Store(location)


def test_nothing_of_the_libraries_on_stderr(
    bucket: tuple[str, Busy], llama: ModelDir, instruction_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capture(llama, load_instructions(instruction_file), f"{bucket[0]}/quiet", SETTINGS).require_complete()
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if re.match(r"WARNING: All log|[IWEF]\d{4} ", line)] == []


def test_a_bucket_that_vanishes(
    bucket: tuple[str, Busy], llama: ModelDir, instruction_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half way through: one line that names the run; with the bucket back, the same command completes it."""
    from sparcom_jax.capture.blocks import Blocks

    original, blocks = Blocks.statistics, []
    everything = boto3.resource("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).Bucket("bucket")

    def block(self: Any, *arguments: Any) -> Any:
        blocks.append(arguments)
        if len(blocks) == 2:
            everything.objects.all().delete()
            everything.delete()
        return original(self, *arguments)

    monkeypatch.setattr(Blocks, "statistics", block)
    instructions = load_instructions(instruction_file)
    with pytest.raises(InputError, match=r"s3://bucket/two: the store failed: .*NoSuchBucket"):
        capture(llama, instructions, "s3://bucket/two", SETTINGS)
    everything.create()
    capture(llama, instructions, "s3://bucket/two", SETTINGS).require_complete()
    everything.meta.client.close()
