"""Stages that copy files: what is made again, when, and what is said."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sparcom_jax import stages
from sparcom_jax.errors import InputError
from sparcom_jax.stages import Stages, digest_of_files, digest_of_listing


class Chain:
    """a -> b -> c: each stage appends its setting to what the stage before it made; b goes on in its directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = "source"
        self.settings = {"a": 1, "b": 1, "c": 1}
        self.worked: list[str] = []

    def run(self) -> str:
        made = self.source
        for name in self.settings:
            made = self._stage(name, made)
        return (self.root / "c/file").read_text()

    def _stage(self, name: str, read: str) -> str:
        directory = self.root / name
        file = directory / "file"

        def work() -> None:
            self.worked.append(name)
            directory.mkdir(exist_ok=True)
            owner = directory / "owner"
            if name == "b" and owner.exists() and owner.read_text() != read:
                raise InputError(f"{directory}: belongs to another input")
            owner.write_text(read)
            file.write_text(f"{read}+{name}{self.settings[name]}")

        return Stages(self.root / "stages").run(
            name, {"number": self.settings[name]}, {"text": read}, work, file.read_text,
            directory if name == "b" else None,
        )  # fmt: skip


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path)


def test_what_is_finished_is_kept(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    assert chain.run() == chain.run() == "source+a1+b1+c1"
    assert chain.worked == ["a", "b", "c"]
    assert capsys.readouterr().err.splitlines() == [
        "a ...", "b ...", "c ...", "a: finished before", "b: finished before", "c: finished before",
    ]  # fmt: skip


def test_another_input_goes_through(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    chain.run()
    chain.source = "other"
    capsys.readouterr()
    assert chain.run() == "other+a1+b1+c1"
    assert capsys.readouterr().err.splitlines() == [
        "a: is made again, because of another text", "a ...",
        "b: is made again, because of another text", f"{chain.root / 'b'}: was made of that and is deleted", "b ...",
        "c: is made again, because of another text", "c ...",
    ]  # fmt: skip


def test_other_settings_are_refused_with_advice_that_holds(chain: Chain) -> None:
    chain.run()
    chain.settings["b"] = 2
    marker = chain.root / "stages/b.json"
    named = (
        rf"^{marker}: stage b was made with other settings \(number 1, now 2\); .* this file and {chain.root / 'b'} to"
    )
    with pytest.raises(InputError, match=named):
        chain.run()
    marker.unlink()
    (chain.root / "b/owner").unlink()
    assert chain.run() == "source+a1+b2+c1"
    assert chain.worked == ["a", "b", "c", "b", "c"]


def test_a_stage_that_makes_the_same_is_followed_by_nothing(chain: Chain) -> None:
    chain.run()
    (chain.root / "stages/a.json").unlink()
    chain.run()
    assert chain.worked == ["a", "b", "c", "a"]


@pytest.mark.parametrize("lose", [lambda file: file.unlink(), lambda file: file.write_text("else")])
def test_what_is_lost_or_changed_is_made_again(lose: Callable[[Path], object], chain: Chain) -> None:
    chain.run()
    lose(chain.root / "b/file")
    assert chain.run() == "source+a1+b1+c1"
    assert chain.worked == ["a", "b", "c", "b"]


def test_settings_of_a_stage_that_was_never_finished_may_change(chain: Chain) -> None:
    chain.run()
    for name in ("b", "c"):
        marker = chain.root / f"stages/{name}.json"
        marker.write_text(json.dumps(json.loads(marker.read_text()) | {"output": None}))
    chain.settings["c"] = 2
    assert chain.run() == "source+a1+b1+c2"
    marker = chain.root / "stages/b.json"
    marker.write_text(json.dumps(json.loads(marker.read_text()) | {"output": None}))
    chain.settings["b"] = 2  # but what b has begun would go on with other settings
    with pytest.raises(InputError, match="stage b was made with other settings"):
        chain.run()


@pytest.mark.parametrize("kill", range(13))
def test_a_change_of_input_survives_a_kill_at_every_point(
    kill: int, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after every write of a marker, and between a deletion and the marker that follows it."""
    chain.run()
    chain.source = "other"
    points = [0]

    def point() -> None:
        points[0] += 1
        if points[0] - 1 == kill:
            raise KeyboardInterrupt

    write = stages.write_marker

    def write_between(marker: Path, content: dict[str, object]) -> None:
        point()
        write(marker, content)
        point()

    monkeypatch.setattr(stages, "write_marker", write_between)
    if kill < 12:
        with pytest.raises(KeyboardInterrupt):
            chain.run()
    else:
        chain.run()
        assert points[0] == 12
    monkeypatch.undo()
    chain.worked.clear()
    assert chain.run() == "other+a1+b1+c1"
    assert "".join(chain.worked) == [*["abc"] * 3, *["bc"] * 4, *["c"] * 4, "", ""][kill]
    chain.worked.clear()
    chain.run()
    assert not chain.worked


@pytest.mark.parametrize("content", ["", "{", "[]", '{"number": 1}'])
def test_a_marker_of_another_form_is_refused(content: str, chain: Chain) -> None:
    (chain.root / "stages").mkdir()
    marker = chain.root / "stages/a.json"
    marker.write_text(content)
    with pytest.raises(
        InputError, match=f"^{re.escape(str(marker))}: not the marker of a stage as this version writes"
    ):
        chain.run()


def test_an_input_that_cannot_be_told_counts_as_unchanged(tmp_path: Path) -> None:
    worked = []
    for digest in ("one", None, "one", "two"):
        Stages(tmp_path).run("s", {}, {"file": digest}, lambda: worked.append(1), lambda: "same")
    assert len(worked) == 2


def test_digests_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    found = [(digest_of_files(tmp_path), digest_of_listing(tmp_path))]
    (tmp_path / "a").write_text("22")
    found.append((digest_of_files(tmp_path), digest_of_listing(tmp_path)))
    (tmp_path / "a").rename(tmp_path / "b")
    found.append((digest_of_files(tmp_path), digest_of_listing(tmp_path)))
    assert len({digest for both in found for digest in both}) == 6
    assert digest_of_listing(tmp_path / "b") == found[-1][1]
    assert digest_of_listing(tmp_path / "nothing") is None
    with pytest.raises(InputError, match="nothing: no files"):
        digest_of_files(tmp_path / "nothing")
