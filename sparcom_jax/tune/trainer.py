"""The loop over the steps of a training, with evaluations and checkpoints between them.

Axis legend: I instructions that are read.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float64

from sparcom_jax.batches.packing import Feed, feeds
from sparcom_jax.engine.sweep import DTYPE_FLAG
from sparcom_jax.errors import InputError
from sparcom_jax.models.faults import require_finite
from sparcom_jax.progress import compiling, progress, say
from sparcom_jax.tune.checkpoints import Checkpoints
from sparcom_jax.tune.job import Job
from sparcom_jax.tune.step import Steps, Training
from sparcom_jax.tune.texts import evaluation
from sparcom_jax.tune.trained import Values


class Trainer:
    """One training.

    Attributes:
      history: plain JSON: `step`, how many steps were taken; `steps`, what each was, as steps.csv has it but for its
        number; `seconds` of each; `evaluations`, each with its `step` and the `nll` of every instruction that is read,
        0 where it is not evaluated; `best`, the step of the one with the lowest validation loss; and in the end
        `after`, the `nll` by the model as it will be stored.
    """

    def __init__(self, job: Job, steps: Steps, kept: list[Array], checkpoints: Checkpoints) -> None:
        """Packs what is evaluated.

        Args:
          job: all that the training is made of.
          steps: its compiled steps.
          kept: the parameters that they need beside what is trained.
          checkpoints: where it goes on from, and is kept.
        """
        self._job, self._steps, self._kept, self._checkpoints = job, steps, kept, checkpoints
        self._total = len(job.plan.steps)
        texts = job.texts.texts
        bins = evaluation(job.texts, job.execution.batch_tokens)
        self._evaluated = list(feeds(texts, bins, steps.devices, texts.predicting))
        self._called: set[Any] = set()
        self._best: Values | None = None
        self.history: dict[str, Any] = {"step": 0, "steps": [], "seconds": [], "evaluations": [], "best": 0}

    def run(self, training: Training) -> Values:
        """Takes the steps that are left.

        Args:
          training: the state before the first one; it is replaced by that of the last checkpoint.

        Returns:
          The values that are kept: the last ones, or with `patience` the best.

        Raises:
          InputError: the loss or the gradient is not finite, or a checkpoint cannot be written or read.
        """
        if self._checkpoints.last is not None:
            training = self._resumed(training)
        elif self._evaluated:
            self._evaluate(training)
        history, settings = self.history, self._job.settings
        with progress("finetune", self._total, "steps", history["step"]) as bar:
            while history["step"] < self._total and not self._stopped():
                training = self._step(training)
                bar.advance()
                step = history["step"]
                if self._evaluated and (step == self._total or self._due(step)):
                    self._evaluate(training)
                if step % settings.save_every == 0 or step == self._total or self._stopped():
                    self._save(training)
        values = training.values if self._best is None else self._best
        if self._evaluated:
            self._evaluate_stored(values)
        return values

    def _resumed(self, training: Training) -> Training:
        like = (training, training.values) if self._job.settings.patience else (training,)
        (training, *best), self.history = self._checkpoints.restore(like)
        self._best = best[0] if best else None
        say(f"going on after step {self.history['step']} of {self._total}")
        return training

    def _save(self, training: Training) -> None:
        if self._checkpoints.last != self.history["step"]:
            tree = (training,) if self._best is None else (training, self._best)
            self._checkpoints.save(self.history["step"], tree, self.history)

    def _due(self, step: int) -> bool:
        every = self._job.settings.evaluate_every
        return step % every == 0 if every else step in self._job.plan.epoch_ends

    def _stopped(self) -> bool:
        """Whether enough evaluations have passed since the best."""
        patience, history = self._job.settings.patience, self.history
        since = sum(one["step"] > history["best"] for one in history["evaluations"])
        return bool(patience) and since >= patience

    def _step(self, training: Training) -> Training:
        begun, step = time.monotonic(), self.history["step"]
        sums, texts = self._steps.nothing(), self._job.texts.texts
        for feed in feeds(texts, self._job.plan.steps[step], self._steps.devices, texts.predicting):
            sums, fault = self._call(self._steps.add, feed, training.values, sums)
            self._require_finite(fault, feed)
        tokens = int(sums.tokens)
        training, taken = self._steps.update(training, sums)
        if not bool(taken.good):
            self._save(training)
            what = "loss" if not np.isfinite(float(taken.loss)) else "gradient"
            raise InputError(f"{self._diverged()}: the {what} is not finite; {self._advice()}")
        self.history["steps"].append([tokens, float(taken.loss), float(taken.norm), float(self._steps.rates(step))])
        self.history["seconds"].append(time.monotonic() - begun)
        self.history["step"] = step + 1
        return training

    def _losses(self, values: Values) -> Float64[np.ndarray, "I"]:
        """The loss of every instruction that is evaluated, in nats per token."""
        texts = self._job.texts
        sums = np.zeros(len(texts.names))
        for feed in self._evaluated:
            found, fault = self._call(self._steps.losses, feed, values)
            self._require_finite(fault, feed)
            for one, of in zip(feed.bins, np.asarray(found), strict=False):
                sums[list(one.texts)] = of[: len(one.texts)]
        return sums / texts.texts.counted

    def _evaluate_stored(self, values: Values) -> None:
        """Measures what is kept, as it is stored: rounded to half precision, small changes may be lost."""
        history, dtype = self.history, self._job.model.dtype
        step = history["step"] if self._best is None else history["best"]
        nll = np.asarray(next(one["nll"] for one in history["evaluations"] if one["step"] == step))
        if dtype != "float32":
            nll = self._losses(self._job.trained.as_stored(self._kept, values, dtype))
            say(f"as it is stored, in {dtype}: {self._shown(nll)}")
        history["after"] = nll.tolist()

    def _evaluate(self, training: Training) -> None:
        """Adds the loss of what is evaluated to the history."""
        history, texts = self.history, self._job.texts
        nll = self._losses(training.values)
        history["evaluations"].append({"step": history["step"], "nll": nll.tolist()})
        say(f"step {history['step']} of {self._total}: {self._shown(nll)}")
        rows = texts.parts.get("validation")
        if rows is not None:
            loss = {one["step"]: np.asarray(one["nll"])[rows].mean() for one in history["evaluations"]}
            history["best"] = min(loss, key=lambda step: loss[step])  # of equal ones the first
        if self._job.settings.patience and history["best"] == history["step"]:
            self._best = jax.tree.map(lambda one: one.copy(), training.values)

    def _shown(self, nll: Float64[np.ndarray, "I"]) -> str:
        """An evaluation in one line."""
        texts, shown = self._job.texts, []
        change = nll - np.asarray(self.history["evaluations"][0]["nll"])
        for part, rows in texts.parts.items():
            of = {name: rows[texts.category[rows] == index] for index, name in enumerate(texts.categories)}
            means = [
                f"{name} {nll[own].mean():.3f} ({change[own].mean():+.3f})" for name, own in of.items() if len(own)
            ]
            shown.append(f"{part.replace('_', ' ')} {', '.join(means)}")
        return "; ".join(shown)

    def _call(self, step: Callable[..., Any], feed: Feed, *arguments: Any) -> Any:
        """Calls a step on a batch; the first time it is compiled, which the progress is told."""
        given = (feed.shape, self._kept, *arguments, feed.batch)
        if (step, feed.shape) in self._called:
            return step(*given)
        self._called.add((step, feed.shape))
        with compiling():
            return jax.block_until_ready(step(*given))

    def _require_finite(self, fault: Array, feed: Feed) -> None:
        """Refuses texts with numbers that are not finite, of a model that was trained until here: it is not saved."""
        config, dtype, taken = self._job.model.config, np.zeros(0, self._steps.dtype), self.history["step"]
        for one, of in zip(feed.bins, np.asarray(fault), strict=False):
            try:
                require_finite(of, one.texts, self._job.texts.names, config.num_layers, dtype, DTYPE_FLAG)
            except InputError as error:
                raise InputError(f"{self._diverged()}: {error}; {self._advice()}" if taken else str(error)) from error

    def _diverged(self) -> str:
        return f"{self._job.model.path}: training diverged in step {self.history['step'] + 1}"

    def _advice(self) -> str:
        last = self._checkpoints.last
        kept = "" if last is None else f"; the state after step {last} is kept"
        return f"take a smaller learning_rate than {self._job.settings.learning_rate:g} and another --output{kept}"
