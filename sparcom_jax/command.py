"""What every launcher shares: flags in, one-line errors out, exit codes."""

import sys
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from sparcom_jax.errors import InputError


def run_command(main: Callable[[], None], default_config: Path | None = None) -> None:
    """Runs a launcher: exit 0 when `main` returns, 2 and one line on stderr when the input is at fault.

    Args:
      main: the body of the command; it reads its flags itself.
      default_config: the file that `--config` names if the user does not.
    """

    def parse(argv: list[str]) -> list[str]:
        if default_config and not any(flag.lstrip("-").split("=")[0] == "config" for flag in argv[1:]):
            argv = [argv[0], f"--config={default_config}", *argv[1:]]
        try:
            rest: list[str] = flags.FLAGS(argv)
            if "config" in flags.FLAGS:
                _ = flags.FLAGS["config"].value.keys  # a file that failed to load says so only when it is read
        except (flags.Error, AttributeError, KeyError, TypeError, OSError) as error:
            # config_flags raises the latter four for a field that the config lacks or that has another type.
            _stop(_one_line(error))
        if len(rest) > 1:
            _stop(f"unexpected argument {rest[1]!r}: every option is a --flag=value")
        return rest

    def body(argv: list[str]) -> None:
        del argv
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file that it touches
        try:
            main()
        except InputError as error:
            _stop(_one_line(error))

    app.run(body, flags_parser=parse)


def _one_line(error: Exception) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(str(text).split())


def _stop(message: str) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(2)
