"""What every launcher shares: flags in, one-line errors out, exit codes."""

import contextlib
import io
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from sparcom_jax.config_flag import ConfigFlag
from sparcom_jax.errors import InputError
from sparcom_jax.printable import printable
from sparcom_jax.shipped import shipped

HELP = ("help", "helpshort", "helpfull", "helpxml", "?")
INTERRUPTED = 130
LEAST_COLUMNS = 36
"""Of a meaning that stands beside its flag."""

flags.disclaim_key_flags()  # what is defined here is the launcher's flag


def run_command(main: Callable[[], None], config: ConfigFlag | None = None) -> None:
    """Runs a launcher.

    Exit 0 when `main` returns, 2 and one line on stderr when the input is at fault, 130 and one line after Ctrl-C. So
    that this holds from the start, `main` itself imports what takes long to import.

    Args:
      main: the body of the command; it reads its flags itself.
      config: its flag `--config`, where it has one.
    """
    if config:
        # The flag reads the arguments and all flagfiles as soon as it is defined; faults of these are to be one line.
        sys.argv[:] = _with_flagfiles(sys.argv)
        config.define()

    def parse(argv: list[str]) -> list[str]:
        logging.set_verbosity(logging.ERROR)  # config_flags has more to say than the one line
        argv = _with_flagfiles(argv)
        names = [flag.lstrip("-").partition("=")[0] for flag in argv[1:] if flag.startswith("-")]
        _show_help(names, config)
        _refuse_foreign(names)
        argv = config.complete(argv) if config else argv
        sys.argv[:] = argv  # where config_flags looks for the fields that are overridden
        rest = _parsed(argv)
        if len(rest) > 1:
            _stop(f"unexpected argument {rest[1]!r}: every option is a --flag=value")
        for flag in flags.FLAGS.get_key_flags_for_module(argv[0]):
            if flag.value == "":
                _stop(f"flag --{flag.name} is empty")
        return rest

    def body(argv: list[str]) -> None:
        del argv
        logging.set_verbosity(logging.WARNING)  # Orbax reports every file that it touches
        try:
            main()
        except InputError as error:
            _stop(_one_line(error))

    signal.signal(signal.SIGINT, _interrupt)
    app.run(body, flags_parser=parse)


def _interrupt(signum: int, frame: Any) -> None:
    """Ctrl-C: ends the process at once, whatever its threads are at; what is left is done when the command runs again.

    An exception instead would be lost where Python ignores those, in callbacks and while modules are being imported.
    """
    del signum, frame
    os.write(2, b"interrupted: run the same command again to go on\n")
    os._exit(INTERRUPTED)


def _with_flagfiles(argv: list[str]) -> list[str]:
    """The arguments, with those that stand in files in the place of `--flagfile`."""
    if any(flag in ("--flagfile=", "-flagfile=") for flag in argv):
        _stop("flag --flagfile is empty")
    warned = io.StringIO()
    try:
        with contextlib.redirect_stderr(warned):
            whole: list[str] = flags.FLAGS.read_flags_from_files(argv, force_gnu=False)
    except (flags.Error, UnicodeDecodeError) as error:
        _stop(f"--flagfile: {_one_line(error).removeprefix('ERROR:: ')}")
    if warned.getvalue():  # of files that name each other
        _stop(f"--flagfile: {' '.join(warned.getvalue().split()).removeprefix('Warning: ')}")
    return whole


def _show_help(names: list[str], config: ConfigFlag | None) -> None:
    """Ends the command, with exit code 0, where help is asked for."""
    for name in names:
        if name in HELP:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `--help | head` ends without a word
            with contextlib.suppress(SystemExit):  # with exit code 1
                flags.FLAGS[name].parse("true")
            if config and name != "helpxml":
                told = config.help()
                print(f"\n{_wrapped(told, shutil.get_terminal_size().columns) if sys.stdout.isatty() else told}")
            raise SystemExit(0)


def _wrapped(help_of_config: str, columns: int) -> str:
    """The help of a config for a terminal: what goes on stands below where it begins, or is indented."""
    lines = []
    for line in help_of_config.splitlines():
        flag = re.match(r"  \S+ +", line)
        indent = len(flag[0]) if flag and columns - len(flag[0]) >= LEAST_COLUMNS else 6
        if flag and indent == 6:
            lines.append(flag[0].rstrip())
            line = f"{'':6}{line[len(flag[0]) :]}"
        lines += textwrap.wrap(line, columns, subsequent_indent=" " * indent, break_on_hyphens=False,
                               break_long_words=False)  # fmt: skip
    return "\n".join(lines)


def _refuse_foreign(names: list[str]) -> None:
    """Refuses the flags of libraries, which would do nothing here, or less than the command."""
    own = {flag.name for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])}
    for name in names:
        known = name if name in flags.FLAGS else name.removeprefix("no")
        if name == "undefok" or (known in flags.FLAGS and flags.FLAGS[known].name not in own):
            _stop(f"flag --{name} is of no use here; --help lists the flags of this command")


def _parsed(argv: list[str]) -> list[str]:
    """Sets the flags and gives what is left; a fault of a flag, or of the file of `--config`, ends the command."""
    try:
        rest: list[str] = flags.FLAGS(argv)
        if "config" in flags.FLAGS and not isinstance(flags.FLAGS["config"].value, ConfigDict):
            raise ValueError("--config names no config")
    except (Exception, SystemExit) as error:  # the file is the user's own code, which may raise anything
        _stop(_fault_of_config(argv) or _one_line(error))
    return rest


def _fault_of_config(argv: list[str]) -> str | None:
    """What is wrong with the file that `--config` names or the fields that flags override; None if nothing is."""
    given = [flag.lstrip("-").partition("=") for flag in argv]
    after = [*argv[1:], ""]
    paths = [value if equals else after[at] for at, (name, equals, value) in enumerate(given) if name == "config"]
    if not paths or "config" not in flags.FLAGS:
        return None
    path = paths[-1]
    try:
        config = flags.FLAGS["config"].parser.parse(path)
        getattr(config, "keys", None)  # a file that could not be read says so only now
    except (Exception, SystemExit) as error:
        fault: BaseException | None = error
        while str(fault).startswith(("Error whilst parsing", "Configuration is not available")) and fault:
            fault = fault.__cause__ or fault.__context__
        if isinstance(fault, OSError) and not Path(path).exists():
            return f"--config={path}: no such file; configs of the package: {', '.join(shipped('configs'))}"
        return f"--config={path}: {type(fault).__name__}: {_one_line(fault or error)}"
    if not isinstance(config, ConfigDict):
        return f"--config={path}: get_config() gives {type(config).__name__}, not a ConfigDict"
    overrides = [name.removeprefix("no") for name, _, _ in given]
    lacking = [name for name in overrides if name.startswith("config.") and not _has_field(config, name)]
    return f"--{lacking[0]}: {path} has no such field" if lacking else None


def _has_field(config: Any, name: str) -> bool:
    try:
        for part in config_path.split(name)[1:]:
            if not isinstance(config, ConfigDict) or part not in config:
                return False
            config = config[part]
    except ValueError:
        return False
    return True


def _one_line(error: BaseException) -> str:
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(str(text).split())


def _stop(message: str) -> None:
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    raise SystemExit(2)
