"""The flag `--config`: which settings of a study a command reads, what help says of them, and short flags for them."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections.config_flags import DEFINE_config_file, config_path

from sparcom_jax.docstrings import meanings
from sparcom_jax.errors import InputError
from sparcom_jax.settings import StudySettings, checked
from sparcom_jax.shipped import shipped

DEFAULT_FILE = "configs/default.py"
"""What `--config` names where the user does not."""
DEFAULTS = StudySettings()
DEFINE = {bool: flags.DEFINE_bool, int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}

flags.disclaim_key_flags()  # what is defined here is the launcher's flag


@dataclass(frozen=True)
class Part:
    """A part of a study's settings that a command reads.

    Attributes:
      name: a section, or a field of the study itself.
      only: those fields of the section that are read; all where none are named.
      only_with: a field and its value, without which the part is not read, for example `("capture.keep", "sets")`.
    """

    name: str
    only: tuple[str, ...] = ()
    only_with: tuple[str, str] | None = None

    @property
    def paths(self) -> list[str]:
        """The fields that are read, `section.field`, or the field of the study."""
        if self.name not in DEFAULTS.sections:
            return [self.name]
        return [f"{self.name}.{name}" for name in self.only or vars(DEFAULTS.sections[self.name])]

    def is_read(self, settings: StudySettings) -> bool:
        """Whether the command reads the part, with these settings."""
        return self.only_with is None or _look_up(settings, self.only_with[0]) == self.only_with[1]

    def in_words(self) -> str:
        """The part, as a message names it."""
        what = f"{', '.join(self.only)} of {self.name}" if self.only else self.name
        return f"{what} (only with {'='.join(self.only_with)})" if self.only_with else what

    def help(self) -> str:
        """Of a section what it is, and of each field a line: how a flag overrides it, its default and its meaning."""
        overrides = {path: f"--config.{path}={_written(path)}" for path in self.paths}
        width = max(map(len, overrides.values()))
        lines = [f"  {flag:<{width}}  {_meaning(path)}" for path, flag in overrides.items()]
        if self.name in DEFAULTS.sections:
            condition = f"; read only with --config.{'='.join(self.only_with)}" if self.only_with else ""
            lines = [f"{self.name}: {_meaning(self.name)}{condition}", *lines]
        return "\n".join(lines)


WHOLE_STUDY = tuple(map(Part, vars(DEFAULTS)))


def fields_of(section: str) -> dict[str, str]:
    """Short flags for the fields of a section, of the same names."""
    return {path.partition(".")[2]: path for path in Part(section).paths}


def is_switch(path: str) -> bool:
    """Whether a field is true or false; such a flag takes no value apart from it."""
    return isinstance(_look_up(DEFAULTS, path), bool)


class ConfigFlag:
    """The flag `--config` of a command, and short flags for some fields; one that is given wins over the config."""

    def __init__(self, *reads: Part, short: Mapping[str, str] | None = None, required: bool = False) -> None:
        """Says what the command reads; `define` makes the flags.

        Args:
          reads: the parts.
          short: short flags, name -> field.
          required: the user must name a file; otherwise it is `DEFAULT_FILE` where they name none.
        """
        self._reads = reads
        self._short = dict(short or {})
        self._required = required
        self._names_file = False

    def define(self) -> None:
        """Defines the flags; `sys.argv`, which `--config` reads at once, must be without flagfiles."""
        default = "" if self._required else f"; default {DEFAULT_FILE}"
        what = "file of settings, or name of one of the package's configs, of which those below are read"
        DEFINE_config_file("config", None, f"{what}{default}")
        flags.FLAGS["config"].default_as_str = None
        if self._required:
            flags.mark_flag_as_required("config")
        for name, path in self._short.items():
            DEFINE[type(_look_up(DEFAULTS, path))](name, None, f"{_meaning(path)}; default {_written(path)}")

    def complete(self, argv: list[str]) -> list[str]:
        """The arguments, with `--config` naming a file: for a name its config, and the default where they name none."""
        self._names_file = any(flag.lstrip("-").partition("=")[0] == "config" for flag in argv[1:])
        given = [] if self._names_file or self._required else [f"--config={shipped('configs')['default']}"]
        return [argv[0], *given, *_with_files(argv[1:])]

    def fields(self) -> dict[str, str]:
        """The fields that the command reads, `section.field` -> meaning."""
        return {path: _meaning(path) for part in self._reads for path in part.paths}

    def help(self) -> str:
        """The fields that the command reads, with their defaults."""
        return "\n".join(["settings, each with its default:", *(part.help() for part in self._reads)])

    def settings(self) -> StudySettings:
        """The settings that the flags give.

        Raises:
          InputError: a field is at fault, or is overridden without effect on the command.
        """
        flag = flags.FLAGS["config"]
        settings = checked(flag.value)
        read = [path for part in self._reads if part.is_read(settings) for path in part.paths]
        require_read(flag.override_values, read, ", ".join(part.in_words() for part in self._reads))
        for name, path in self._short.items():
            if (value := flags.FLAGS[name].value) is not None:
                settings = _replaced(settings, path, value)
        return settings

    def given(self, section: str) -> dict[str, Any]:
        """The fields of a section that are given: all where `--config` names a file, else those that flags name.

        Raises:
          InputError: as `settings`.
        """
        settings = self.settings()
        short = {path for name, path in self._short.items() if flags.FLAGS[name].value is not None}
        overridden = set(map(_name, flags.FLAGS["config"].override_values))
        named = [path for path in Part(section).paths if {path, section} & (short | overridden)]
        chosen = Part(section).paths if self._names_file else named
        return {path.partition(".")[2]: _look_up(settings, path) for path in chosen}

    def flag_of(self, *paths: str) -> str | None:
        """The flag that names one of some fields, or a section with it; None where no flag does."""
        short = [f"--{name}" for name, path in self._short.items() if path in paths and flags.FLAGS[name].present]
        long = [name for name in map(_name, flags.FLAGS["config"].override_values)
                if any(path == name or path.startswith(f"{name}.") for path in paths)]  # fmt: skip
        return next(iter([*short, *(f"--config.{name}" for name in long)]), None)


def _with_files(arguments: list[str]) -> list[str]:
    """The arguments, with the file of a config of the package in the place of its name."""
    made: list[str] = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if made and made[-1] in ("--config", "-config"):
            argument = _file(argument)
        elif equals and flag in ("--config", "-config"):
            argument = f"{flag}={_file(value)}"
        made.append(argument)
    return made


def _file(value: str) -> str:
    """The file that `--config` names: the user's, or else that of the package's config NAME or configs/NAME.py."""
    if not Path(value).is_file():
        for name, path in shipped("configs").items():
            if value in (name, f"configs/{name}.py"):
                return str(path)
    return value


def require_read(overrides: Iterable[str], read: Collection[str], reads: str) -> None:
    """Refuses flags that override fields of a config which the command does not read.

    Args:
      overrides: the fields, as `override_values` of the flag names them.
      read: the fields that are read, `section.field`; with them all that is in them, and their section.
      reads: which these are, in words, for the message.

    Raises:
      InputError: it names the flag.
    """
    for name in map(_name, overrides):
        if not any(name == field or name.startswith(f"{field}.") or field.startswith(f"{name}.") for field in read):
            raise InputError(f"--config.{name} has no effect on this command, which reads {reads}")


def _name(override: str) -> str:
    return ".".join(map(str, config_path.split(override)))


def _look_up(settings: StudySettings, path: str) -> Any:
    return reduce(getattr, path.split("."), settings)


def _replaced(settings: StudySettings, path: str, value: Any) -> StudySettings:
    section, _, field = path.rpartition(".")
    if section:
        field, value = section, replace(getattr(settings, section), **{field: value})
    return replace(settings, **{field: value})


def _meaning(path: str) -> str:
    *section, name = path.split(".")
    return meanings(type(reduce(getattr, section, DEFAULTS)))[name]


def _written(path: str) -> str:
    """The default of a field, as a flag gives it."""
    value = _look_up(DEFAULTS, path)
    return value or "''" if isinstance(value, str) else json.dumps(value)
