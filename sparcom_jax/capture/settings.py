"""How a run is captured: the settings of a capture, and their rules."""

from dataclasses import dataclass

from sparcom_jax.batches.tokens import SCOPES
from sparcom_jax.capture.statistics import CONVENTIONS
from sparcom_jax.errors import InputError


@dataclass(frozen=True)
class CaptureSettings:
    """How a run is captured; all of it is recorded in the run.

    Attributes:
      max_tokens: longest text that is fed; 0 takes the model's own limit.
      truncate: cut longer texts at the end instead of refusing them.
      scope: which tokens count. `prompt`: all that the model reads; `instruction`: the user's words, without template
        and special tokens; `response`: the reference response, which the model reads after the prompt; `generated`: the
        model's own greedy continuation, likewise.
      new_tokens: for `generated`, the most tokens that a prompt is continued by; 0 for other scopes.
      template: what stands around an instruction: `none`, `plain` or `chat` (`data/templates.py`).
      count_window: count only the last so many of these tokens; 0 counts all.
      convention: `gate` counts act_fn(gate_proj(x)) > 0, `product` counts the input of down_proj > 0.
      keep: `counts` stores the counts of all neurons, which `identify` cuts in whatever way. `sets` cuts them on the
        device and stores who is in S(i): a sixteenth of the bytes, for one way to cut.
      value_statistics: store sums and maxima of the activations too, for `counts`.
      batch_tokens: token slots of a batch, per device.
      rows_per_block: instructions that are written together; 0 chooses by size.
      placement: `pmap` or `mesh`.
      model_parallel: devices that share one batch, for `mesh`.
      dtype: `auto` is float32 on CPU and the checkpoint's own dtype on accelerators.
    """

    max_tokens: int = 0
    truncate: bool = False
    scope: str = "prompt"
    new_tokens: int = 0
    template: str = "none"
    count_window: int = 0
    convention: str = "gate"
    keep: str = "counts"
    value_statistics: bool = False
    batch_tokens: int = 1024
    rows_per_block: int = 0
    placement: str = "pmap"
    model_parallel: int = 1
    dtype: str = "auto"

    def check(self) -> None:
        """Refuses values that mean nothing, and settings without effect.

        Raises:
          InputError: a field is unknown or out of range, or does not go with another.
        """
        for field in ("max_tokens", "new_tokens", "count_window", "rows_per_block"):
            if getattr(self, field) < 0:
                raise InputError(f"capture.{field} must not be negative, got {getattr(self, field)}")
        if self.batch_tokens < 1:
            raise InputError(f"capture.batch_tokens must be positive, got {self.batch_tokens}")
        if self.convention not in CONVENTIONS:
            raise InputError(f"capture.convention {self.convention!r} is not known; known: gate, product")
        if self.keep not in ("counts", "sets"):
            raise InputError(f"capture.keep {self.keep!r} is not known; known: counts, sets")
        if self.keep == "sets" and self.value_statistics:
            raise InputError("capture.value_statistics belongs to the counts; it needs capture.keep counts")
        if self.scope not in SCOPES:
            raise InputError(f"capture.scope {self.scope!r} is not known; known: {', '.join(SCOPES)}")
        if self.truncate and (self.template != "none" or self.scope in ("response", "generated")):
            raise InputError("capture.truncate would cut off the template or the response; it needs template none and "
                             "scope prompt or instruction")  # fmt: skip
        if self.scope == "generated" and self.new_tokens < 1:
            raise InputError(f"capture.new_tokens must be positive for scope generated, got {self.new_tokens}")
        if self.scope != "generated" and self.new_tokens:
            raise InputError(f"capture.new_tokens {self.new_tokens} is for scope generated, not {self.scope}")
        if self.rows_per_block & (self.rows_per_block - 1):
            raise InputError(f"capture.rows_per_block must be a power of two, got {self.rows_per_block}")
