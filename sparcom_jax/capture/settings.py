"""How a run is captured: the settings of a capture, and their rules."""

from dataclasses import dataclass

from sparcom_jax.batches.tokens import SCOPES
from sparcom_jax.errors import InputError

CONVENTIONS = ("gate", "product")


@dataclass(frozen=True)
class CaptureSettings:
    """What is fed, counted and kept; all of it is recorded in the run.

    Attributes:
      max_tokens: longest text that is fed; 0 takes the model's own limit.
      truncate: cut longer texts at the end instead of refusing them.
      scope: which tokens count: `prompt`, `instruction`, `response` or `generated`. The prompt is all that the model
        reads; the instruction, the user's words without template and special tokens; the response, the reference that
        the model reads after the prompt; and what is generated, the model's own greedy continuation, read likewise.
      new_tokens: for scope `generated`, the most tokens that a prompt is continued by; 0 for other scopes.
      template: what stands around an instruction: `none`, `plain` or `chat` (`batches/templates.py`).
      count_window: count only the last so many of these tokens; 0 counts all.
      convention: `gate` counts act_fn(gate_proj(x)) > 0, `product` counts the input of down_proj > 0.
      keep: `counts` of all neurons, or the `sets` that they are cut to. Counts are cut by `identify`, in whatever way;
        sets are cut on the device and take a sixteenth of the bytes, for one way to cut.
      value_statistics: store sums and maxima of the activations too, and sums of what experts add, for `counts`.
      rows_per_block: instructions that are written together, a power of two; 0 chooses by size.
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
    rows_per_block: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing, and settings without effect.

        Raises:
          InputError: a field is unknown or out of range, or does not go with another.
        """
        for field in ("max_tokens", "new_tokens", "count_window", "rows_per_block"):
            if getattr(self, field) < 0:
                raise InputError(f"capture.{field} must not be negative, got {getattr(self, field)}")
        if self.convention not in CONVENTIONS:
            raise InputError(f"capture.convention {self.convention!r} is not known; known: {', '.join(CONVENTIONS)}")
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
