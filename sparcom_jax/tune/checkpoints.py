"""Checkpoints of a training, with Orbax: each whole or not there, and the last one stays until the next is."""

import json
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from sparcom_jax.errors import InputError
from sparcom_jax.stages import difference

BEGUN = "begun.json"
"""What a training was begun with, in its output."""


def require_begun(file: Path, begun: dict[str, Any]) -> None:
    """Notes what a training is begun with, or refuses to go on with anything else.

    Args:
      file: where it is noted.
      begun: all that the training depends on, as plain JSON.

    Raises:
      InputError: it was begun otherwise, or nothing can be written.
    """
    try:
        if file.exists():
            if changed := difference(json.loads(file.read_text()), json.loads(json.dumps(begun))):
                raise InputError(f"{file}: the training was begun otherwise ({changed}); choose another --output, "
                                 f"or delete {file.parent}")  # fmt: skip
        else:
            partial = file.with_suffix(".partial")
            partial.write_text(json.dumps(begun, indent=1))
            partial.replace(file)
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error.strerror or error})") from error


class Checkpoints:
    """The checkpoints of one training."""

    def __init__(self, directory: Path) -> None:
        """Opens them.

        Args:
          directory: where they lie.
        """
        self._directory = directory.absolute()
        options = ocp.CheckpointManagerOptions(max_to_keep=1, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    @property
    def last(self) -> int | None:
        """The step of the last checkpoint."""
        step = self._manager.latest_step()
        return None if step is None else int(step)

    def save(self, step: int, tree: Any, history: dict[str, Any]) -> None:
        """Writes a checkpoint, and deletes the one before.

        Args:
          step: how many steps were taken.
          tree: arrays.
          history: what else is to be known, as plain JSON.

        Raises:
          InputError: it cannot be written.
        """
        items = ocp.args.Composite(tree=ocp.args.PyTreeSave(_numbered(tree)), history=ocp.args.JsonSave(history))
        try:
            self._manager.save(step, args=items)
        except (OSError, ValueError) as error:  # the store's errors are of the latter kind
            raise InputError(f"{self._directory}: cannot be written ({error}); the checkpoint before stays") from error

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """Reads the last checkpoint.

        Args:
          like: arrays of the same shapes, where they are to lie.

        Raises:
          InputError: it cannot be read.
        """
        wanted = _numbered(like)
        args = ocp.args.PyTreeRestore(wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted))
        items = ocp.args.Composite(tree=args, history=ocp.args.JsonRestore())
        try:
            found = self._manager.restore(self.last, args=items)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{self._directory}/{self.last}: cannot be read ({error}); delete it") from error
        leaves = [found["tree"][name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), found["history"]

    def close(self) -> None:
        """Lets go of them."""
        self._manager.close()


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves by number: the optimizer's containers are no concern of whoever reads the files."""
    return {f"{number:05d}": leaf for number, leaf in enumerate(jax.tree.leaves(tree))}
