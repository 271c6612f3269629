"""The settings of a study: those of every step, and the models to study; and the config file that they come from."""

import json
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sparcom_jax.analysis.settings import (
    AgreeSettings,
    AlignSettings,
    CompareSettings,
    EvaluateSettings,
    SweepSettings,
)
from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.settings import AblationSettings, AnswerSettings, SteerSettings
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.identify.selection import Selection
from sparcom_jax.select.settings import OF_COUNTS, SelectSettings
from sparcom_jax.tune.settings import TuneSettings, TuningsSettings, parse_train, slug

T = TypeVar("T")


@dataclass(frozen=True)
class StudySettings:
    """A study; the fields of a config, and its sections, are those of this class.

    Attributes:
      instructions: `hexainst`, `hexainst:50` for 50 rows of each category, or a JSONL file.
      note: what the head of the report says besides.
      set_name: name of the sets of a run, below RUN/sets/; that of the selector of `identify` by default.
      execution: where and how a model runs, for capture, attribute, ablate and explore.
      capture: what is fed, counted and kept.
      identify: how S(i) is chosen.
      attribute: how the likelihood of the responses is attributed to units.
      select: how the units of a category are chosen.
      evaluate: how generality and uniqueness are measured.
      compare: how two models are compared.
      sweep: where S(i) is cut, by `sweep`.
      agree: which selectors are compared with each other.
      align: how frequency is compared with attribution.
      ablate: how units are switched off and what is measured.
      answer: how a model answers with units switched off.
      steer: how units are turned up and down while a model answers, by `steer`.
      explore: which units get a card, and what is on it.
      tune: how a model is fine-tuned, and on what, by `finetune`.
      tunings: how trainings are compared with each other.
      trainings: what is trained of the last model of each pair, as `--train` names it -> learning rates to try. For
        example {"units:auroc:MATH": [1e-3, 3e-3], "all": [1e-5]}.
      pairs: the models, name -> {"base": ..., "tuned": ...} or {"train": {...}}. Of base and tuned, either may be left
        out. Each is a checkpoint (a Hugging Face directory, a GGUF file or a hub id), or
        {"source": ..., "adapter": ..., "dtype": ...}, as `convert` takes them.
    """

    instructions: str = "hexainst"
    note: str = ""
    set_name: str = ""
    execution: ExecutionSettings = ExecutionSettings()
    capture: CaptureSettings = CaptureSettings()
    identify: Selection = Selection()
    attribute: AttributeSettings = AttributeSettings()
    select: SelectSettings = SelectSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    compare: CompareSettings = CompareSettings()
    sweep: SweepSettings = SweepSettings()
    agree: AgreeSettings = AgreeSettings()
    align: AlignSettings = AlignSettings()
    ablate: AblationSettings = AblationSettings()
    answer: AnswerSettings = AnswerSettings()
    steer: SteerSettings = SteerSettings()
    explore: ExploreSettings = ExploreSettings()
    tune: TuneSettings = TuneSettings()
    tunings: TuningsSettings = TuningsSettings()
    trainings: dict[str, Any] = field(default_factory=dict)
    pairs: dict[str, Any] = field(default_factory=dict)

    @property
    def sections(self) -> dict[str, Any]:
        """The settings of every step, by name."""
        return {name: value for name, value in vars(self).items() if is_dataclass(value)}

    @property
    def name_of_sets(self) -> str:
        """Name of the sets of a run."""
        return self.set_name or self.identify.selector

    def check(self) -> None:
        """Refuses values that mean nothing, in any section, and sections that do not go together.

        Raises:
          InputError: it names the field at fault.
        """
        for section in self.sections.values():
            section.check()
        if self.capture.keep == "sets":
            self.identify.require_alone()
            named = {"select.selector": self.select.selectors, "agree.selectors": self.agree.selectors.split(",")}
            for setting, selectors in named.items():
                if reads := [one for one in selectors if one in OF_COUNTS]:
                    raise InputError(f"{setting} {reads[0]} reads counts, and with capture.keep=sets there are none; "
                                     f"take core, unique or general, or capture.keep=counts")  # fmt: skip
        for train, rates in self.trainings.items():
            parse_train(train)
            if other := next((one for one in self.trainings if one != train and slug(one) == slug(train)), None):
                raise InputError(f"config field trainings: {train} and {other} would share the directory {slug(train)}")
            if not isinstance(rates, list) or not rates or not all(type(rate) in (int, float) for rate in rates):
                raise InputError(f"config field trainings: {train} needs a list of learning rates, not {rates!r}")
            if len(rates) > 1 and not self.tune.validation:
                raise InputError(f"config field trainings: of the learning rates of {train} the best is taken by the "
                                 f"validation loss, but tune.validation is 0")  # fmt: skip
        for section in ("align", *(("select",) if "attribution" in self.select.selectors else ())):
            if (method := self.sections[section].method) != self.attribute.method:
                raise InputError(f"{section}.method is {method}, but a study has one attribution, and "
                                 f"attribute.method is {self.attribute.method}")  # fmt: skip


def default_config() -> ConfigDict:
    """A config with the default of every field of `StudySettings`; a study fills `pairs`."""
    return ConfigDict(asdict(StudySettings()))


def checked(config: ConfigDict) -> StudySettings:
    """The settings that a config holds, once it has all their fields, no others, and of the same types.

    Raises:
      InputError: it names the field at fault.
    """
    try:
        values: dict[str, Any] = json.loads(config.to_json())  # in the order of the file, which `to_dict` does not keep
    except TypeError as error:
        raise InputError(f"the config cannot be recorded: {error}") from error
    default = StudySettings()
    _require_all(values, asdict(default), "")
    _require_like(values, asdict(default), "")
    for name, section in default.sections.items():
        _require_all(values[name], asdict(section), f"{name}.")
        values[name] = build(type(section), values[name], name)
    return StudySettings(**values)


def build(kind: type[T], values: dict[str, Any], section: str) -> T:
    """Makes a settings object of a section of a config.

    Args:
      kind: the dataclass.
      values: its fields.
      section: name of the section, for messages.

    Raises:
      InputError: a field is not one of the dataclass's, or of another type.
    """
    default = asdict(kind())  # type: ignore[call-overload]
    _require_like(values, default, f"{section}.")
    return kind(**{name: float(value) if type(default[name]) is float else value for name, value in values.items()})


def _require_all(values: dict[str, Any], default: dict[str, Any], prefix: str) -> None:
    if lacking := default.keys() - values.keys():
        raise InputError(f"config field {prefix}{min(lacking)} is missing")


def _require_like(values: dict[str, Any], default: dict[str, Any], prefix: str) -> None:
    """Refuses fields that are unknown or have another type than their default."""
    for name, value in values.items():
        if name not in default:
            raise InputError(f"config field {prefix}{name} is not known; known: {', '.join(sorted(default))}")
        kind = type(default[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"config field {prefix}{name} must be of type {kind.__name__}, got {value!r}")
