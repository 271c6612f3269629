"""The trainings of a study: each at several learning rates, the best with several seeds, and what they come to."""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.model_dir import open_model
from sparcom_jax.errors import InputError
from sparcom_jax.identify.select import identify
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.results.reader import Result, read_result
from sparcom_jax.results.summary import SUMMARY
from sparcom_jax.results.tuning import EVALUATION_ROWS
from sparcom_jax.settings import StudySettings
from sparcom_jax.stages import Stages, digest_of_files
from sparcom_jax.store.run import open_run
from sparcom_jax.store.sets import open_sets
from sparcom_jax.tune.finetune import finetune
from sparcom_jax.tune.outcomes import validation_loss
from sparcom_jax.tune.settings import OF_UNITS, parse_train, slug
from sparcom_jax.tune.tunings import tunings

Inputs = dict[str, str | None]


@dataclass(frozen=True, eq=False)
class Trainings:
    """The trainings of one model of a study.

    Attributes:
      stages: of the study.
      output: its directory.
      study: its settings.
      name: of the model.
      instructions: what is learnt from and held out.
      made: digests of the `model`, its `run` and its `units`.
    """

    stages: Stages
    output: Path
    study: StudySettings
    name: str
    instructions: InstructionSet
    made: Inputs

    def run_all(self) -> dict[str, Inputs]:
        """Trains in every way that the study names, captures the tuned models, and compares the trainings.

        Returns:
          By name of a tuned model, the digests of its run and of its set.
        """
        seeds = range(self.study.tune.seed, self.study.tune.seed + self.study.tunings.seeds)
        trained: Inputs = {}
        tuned: dict[str, Inputs] = {}
        for train, rates in self.study.trainings.items():
            tried = {rate: self._train(train, rate, seeds[0]) for rate in rates}
            best = min(tried, key=lambda rate: validation_loss(self._result(train, rate, seeds[0]))
                       ) if len(tried) > 1 else rates[0]  # fmt: skip
            others = {seed: self._train(train, best, seed) for seed in seeds[1:]}
            trained |= {f"{train} {rate}": digest for rate, digest in tried.items()}
            trained |= {f"{train} seed {seed}": digest for seed, digest in others.items()}
            model = self._result(train, best, seeds[0]).directory / "model"
            tuned[f"{self.name}-{slug(train)}"] = self._capture(f"{self.name}-{slug(train)}", model)
        into, runs = self.output / "results" / f"tunings-{self.name}", self.output / "runs"
        self.stages.run(
            f"tunings-{self.name}",
            asdict(self.study.tunings),
            {"run": self.made["run"], **trained} | {f"run of {name}": of["run"] for name, of in tuned.items()},
            lambda: tunings(open_run(runs / self.name), self._tuned, into, self.study.tunings,
                            tuned_runs=[runs / name for name in tuned]),
            lambda: digest_of_files(into),
        )  # fmt: skip
        return tuned

    @property
    def _tuned(self) -> Path:
        return self.output / "tuned" / self.name

    def _place(self, train: str, rate: float, seed: int) -> Path:
        return self._tuned / f"{slug(train)}-{rate:g}-{seed}"

    def _result(self, train: str, rate: float, seed: int) -> Result:
        return read_result(self._place(train, rate, seed), [EVALUATION_ROWS])

    def _train(self, train: str, rate: float, seed: int) -> str:
        """Trains with a learning rate and a seed; the model is written for the first seed. Returns a digest."""
        study, into = self.study, self._place(train, rate, seed)
        first = seed == study.tune.seed
        settings = replace(study.tune, learning_rate=rate, seed=seed, keep_model=first)
        of_units = parse_train(train).kind in OF_UNITS
        run = self.output / "runs" / self.name if of_units else None
        inputs = {"model": self.made["model"], "instructions": self.instructions.digest}

        stage = f"finetune-{self.name}-{into.name}"
        made = self.stages.made(stage)

        def work() -> None:
            if made is not None:  # and what it made is gone or was changed: there is nothing to go on with
                shutil.rmtree(into, ignore_errors=True)
            finetune(open_model(self.output / "models" / self.name), self.instructions, train, into, settings,
                     study.execution, run=run)  # fmt: skip

        return self.stages.run(
            stage,
            {"train": train} | asdict(settings) | asdict(study.execution),
            inputs | ({"units": self.made["units"]} if of_units else {}),
            work,
            lambda: _digest(into),
            stale=into,
        )

    def _capture(self, name: str, model: Path) -> Inputs:
        study, run = self.study, self.output / "runs" / name
        counts = self.stages.run(
            f"capture-{name}",
            asdict(study.capture) | asdict(study.execution),
            {"model": open_model(model).digest, "instructions": self.instructions.digest},
            lambda: capture(open_model(model), self.instructions, run, study.capture, study.identify, study.execution),
            lambda: open_run(run).manifest.identity_digest,
            stale=run,
        )
        sets = self.stages.run(
            f"identify-{name}",
            asdict(study.identify) | {"set_name": study.name_of_sets},
            {"run": counts},
            lambda: identify(open_run(run), name=study.name_of_sets, **asdict(study.identify)),
            lambda: open_sets(open_run(run), study.name_of_sets).digest,
        )
        return {"run": counts, "set": sets}


def _digest(output: Path) -> str:
    """Of what came of a training, but for how long it took."""
    try:
        summary = json.loads((output / SUMMARY).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{output}: has no {SUMMARY}") from error
    tables = [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(output.glob("*.csv"))]
    model = open_model(output / "model").digest if summary["settings"]["keep_model"] else ""
    return hashlib.sha256("".join([*tables, model]).encode()).hexdigest()
