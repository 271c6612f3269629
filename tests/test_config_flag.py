"""What a command reads of a study's settings, in words and line by line."""

import pytest

from sparcom_jax.config_flag import WHOLE_STUDY, Part, fields_of, require_read
from sparcom_jax.errors import InputError
from sparcom_jax.settings import StudySettings, checked, default_config

SETS = Part("identify", only=("selector", "ties"), only_with=("capture.keep", "sets"))


@pytest.mark.parametrize("override", ["identify.epsilon", "identify", "set_name", "capture.x", "pairs", "capture2.a"])
def test_overrides_that_are_not_read(override: str) -> None:
    with pytest.raises(InputError, match=rf"^--config\.{override} has no effect on this command, which reads this$"):
        require_read(["capture.a", override], ["capture.a", "capture.b"], "this")


def test_overrides_that_are_read_in_any_spelling() -> None:
    require_read(["capture.a", "capture['b']", "capture"], ["capture.a", "capture.b"], "this")
    require_read(["pairs", "pairs.one.base"], ["pairs"], "this")


def test_a_part_of_a_section() -> None:
    assert SETS.paths == ["identify.selector", "identify.ties"]
    assert SETS.in_words() == "selector, ties of identify (only with capture.keep=sets)"
    assert not SETS.is_read(StudySettings())
    config = default_config()
    config.capture.keep = "sets"
    assert SETS.is_read(checked(config))
    heading, *lines = SETS.help().splitlines()
    assert heading == "identify: how S(i) is chosen; read only with --config.capture.keep=sets"
    flags = ["--config.identify.selector=excess", "--config.identify.ties=include"]
    assert [line.split()[0] for line in lines] == flags


def test_a_field_of_the_study() -> None:
    part = Part("set_name")
    assert (part.paths, part.in_words(), part.is_read(StudySettings())) == (["set_name"], "set_name", True)
    meaning = "name of the sets of a run, below RUN/sets/; that of the selector of identify by default"
    assert part.help() == f"  --config.set_name=''  {meaning}"


def test_short_flags_of_a_section() -> None:
    names = ("rho", "permutations", "bootstraps", "stratum_rows", "seed")
    assert fields_of("compare") == {name: f"compare.{name}" for name in names}


def test_a_study_reads_everything() -> None:
    paths = [path for part in WHOLE_STUDY for path in part.paths]
    config = default_config().to_dict()
    wanted = {f"{name}.{field}" for name, value in config.items() if isinstance(value, dict) for field in value}
    assert {*paths} == wanted | {"instructions", "note", "set_name", "trainings", "pairs"}
    assert len(paths) == len({*paths})
