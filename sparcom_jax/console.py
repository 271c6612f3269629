"""The command `sparcom`: every launcher by its name, and what needs none."""

import ast
import signal
import sys
from difflib import get_close_matches
from types import ModuleType

from sparcom_jax.errors import InputError
from sparcom_jax.shipped import OWN, commands, docstring, shipped
from sparcom_jax.version import VERSION

HELP = ("--help", "-h", "help")


def main() -> None:
    """Runs the command that the arguments name.

    Exit codes are those of the launchers: 0, 2 and one line on stderr when the input is at fault, 130 after Ctrl-C.
    """
    first, *rest = sys.argv[1:] or [""]
    if first in HELP and rest:
        first, rest = rest[0], ["--help", *rest[1:]]
    try:
        if first == "--version":
            _show(f"sparcom_jax {VERSION}")
        elif first in HELP:
            _show(overview())
        elif not first:
            print(overview(), file=sys.stderr)
            raise SystemExit(2)
        elif first in OWN:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # they write nothing that could be left half done
            _show(_own(first, rest))
        else:
            _launch(first, rest)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error


def overview() -> str:
    """All commands, each with the first line of its docstring."""
    described = commands()
    width = max(map(len, described))
    return "\n".join([
        "Finds the neurons and experts that carry instruction following in large language models.",
        "",
        "sparcom COMMAND [--flag=value ...]",
        "sparcom COMMAND --help",
        "sparcom --version",
        "",
        *(f"  {name:<{width}}  {what.splitlines()[0]}" for name, what in described.items()),
    ])  # fmt: skip


def _show(text: str) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `sparcom ... | head` ends without a word
    print(text)


def _own(name: str, arguments: list[str]) -> str:
    """What a command prints that takes one argument, and is no launcher.

    Raises:
      InputError: there is no argument, or more than one; or what the command refuses.
    """
    what = commands()[name]
    if any(one in HELP for one in arguments):
        return what
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(f"usage: {what.splitlines()[2]}")
    if name == "completion":
        from sparcom_jax.completion import completion

        return completion(arguments[0])
    from sparcom_jax.status import status

    return status(arguments[0])


def _launch(name: str, arguments: list[str]) -> None:
    """Runs a launcher as Python would run its file, but that its help calls it `sparcom NAME`.

    Raises:
      InputError: there is no such launcher.
    """
    path = shipped("launch").get(name)
    if path is None:
        near = get_close_matches(name, commands(), 1)
        raise InputError(f"no command {name!r}; {f'did you mean {near[0]}? ' if near else ''}sparcom --help lists them")
    source = ast.parse(path.read_text(encoding="utf-8"), path)
    first = source.body[0]
    assert isinstance(first, ast.Expr), "a launcher begins with its docstring"
    first.value = ast.copy_location(ast.Constant(_as_called(docstring(path), name)), first.value)
    sys.argv[:] = [f"sparcom {name}", *("--help" if one == "-h" else one for one in arguments)]
    module = ModuleType("__main__")
    module.__file__ = str(path)
    sys.modules["__main__"] = (
        module  # whose flags absl takes for those of the command, and whose docstring for its help
    )
    exec(compile(source, path, "exec"), vars(module))


def _as_called(usage: str, name: str) -> str:
    """The docstring of a launcher with the command in the place of its file; what is aligned with it stays so."""
    file, called = f"launch/{name}.py ", f"sparcom {name} "
    return usage.replace(file, called).replace(f"\n{' ' * len(file)}", f"\n{' ' * len(called)}") + "\n"
