"""Prints a script that completes the commands and flags of sparcom in a shell.

sparcom completion bash|zsh|fish

For one session: `source <(sparcom completion bash)`, with zsh likewise; `sparcom completion fish | source`.
To keep it, write the script to where the shell looks for such:
~/.local/share/bash-completion/completions/sparcom, ~/.config/fish/completions/sparcom.fish, or for zsh a file _sparcom
in a directory of $fpath. After an update of the package, write it again.
"""

from collections.abc import Mapping
from pathlib import Path
from runpy import run_path

from absl import flags

from sparcom_jax.config_flag import ConfigFlag, is_switch
from sparcom_jax.errors import InputError
from sparcom_jax.shipped import commands, shipped

FIELDS = "--config."
"""How a flag begins that overrides a field of the config; these are completed once it is typed, for they are many."""

Meanings = Mapping[str, str]
"""What each of the arguments means; one that ends with `=` takes a value."""


def completion(shell: str) -> str:
    """The script for a shell.

    Raises:
      InputError: it is not one of the three.
    """
    if shell not in SCRIPTS:
        raise InputError(f"shell {shell!r} is not known; known: {', '.join(SCRIPTS)}")
    first = {name: what.splitlines()[0] for name, what in commands().items()}
    first |= {"help": "Shows all commands, or the help of one.", "--help": "Shows all commands.",
              "--version": "Shows the version."}  # fmt: skip
    return SCRIPTS[shell](first, {name: options(path) for name, path in shipped("launch").items()})


def options(launcher: Path) -> dict[str, str]:
    """What a launcher's arguments may begin with: its flags, and those that override fields of its config.

    Args:
      launcher: its file, which is executed, but not its command.
    """
    module = f"sparcom_jax.launch.{launcher.stem}"
    config = run_path(str(launcher), run_name=module).get("_CONFIG")
    if isinstance(config, ConfigFlag):
        config.define()
    own = [flag for name in (module, __name__) for flag in flags.FLAGS.get_key_flags_for_module(name)]
    found = {"--help": "what the command does, and its flags"}
    for flag in sorted(own, key=lambda flag: flag.name):
        for typed in (f"--{flag.name}", f"--no{flag.name}") if flag.boolean else (f"--{flag.name}=",):
            found[typed] = flag.help
        delattr(flags.FLAGS, flag.name)  # the next launcher may have one of this name
    if isinstance(config, ConfigFlag):
        found |= {f"{FIELDS}{path}=": meaning for path, meaning in config.fields().items()}
    return found


def _bash(first: Meanings, launchers: Mapping[str, Meanings]) -> str:
    cases = [f"        {name}) words='{_words(found)}' fields='{_words(found, of_config=True)}' ;;"
             for name, found in launchers.items()]  # fmt: skip
    return BASH.format(first=" ".join(first), commands=" ".join(commands()), configs=" ".join(shipped("configs")),
                       shells=" ".join(SCRIPTS), cases="\n".join(cases))  # fmt: skip


def _words(found: Meanings, *, of_config: bool = False) -> str:
    words = [word for word in found if word.startswith(FIELDS) == of_config]
    begins = [FIELDS] if not of_config and any(word.startswith(FIELDS) for word in found) else []
    return " ".join([*words, *begins])


BASH = """\
# Completion of sparcom, as `sparcom completion bash` prints it.
_sparcom() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD - 1]}} words='' fields='' flag=''
    COMPREPLY=()
    case ${{COMP_WORDS[1]}} in
{cases}
        completion) words='{shells}' ;;
        help) words='{commands}' ;;
    esac
    # Readline takes = for a word of its own.
    if [[ $word == = ]]; then
        flag=$before word=''
    elif [[ $before == = ]]; then
        flag=${{COMP_WORDS[COMP_CWORD - 2]}}
    fi
    if ((COMP_CWORD == 1)); then
        words='{first}'
    elif [[ $flag == --config ]]; then
        words='{configs}'
    elif [[ $flag ]]; then
        words=''
    elif [[ $word == {fields}* ]]; then
        words=$fields
    fi
    # Where nothing is found, Bash completes the names of files.
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
    if [[ ${{#COMPREPLY[@]}} == 1 && ${{COMPREPLY[0]}} == *[=.] ]]; then
        compopt -o nospace 2>/dev/null
    fi
}}
complete -o default -F _sparcom sparcom
""".replace("{fields}", FIELDS)


def _zsh(first: Meanings, launchers: Mapping[str, Meanings]) -> str:
    cases = []
    for name, found in launchers.items():
        for array, of_config in (("flags", False), ("fields", True)):
            listed = " ".join(_quoted(f"{word}:{_plain(found.get(word, 'a field of the config'))}")
                              for word in _words(found, of_config=of_config).split())  # fmt: skip
            cases.append(f"        {name + ')' if array == 'flags' else ' ' * (len(name) + 1)} {array}=({listed})")
        cases[-1] += " ;;"
    listed = "\n".join(f"        {_quoted(f'{word}:{_plain(what)}')}" for word, what in first.items())
    return ZSH.format(first=listed, commands=" ".join(commands()), configs=" ".join(shipped("configs")),
                      shells=" ".join(SCRIPTS), cases="\n".join(cases))  # fmt: skip


ZSH = """\
#compdef sparcom
# Completion of sparcom, as `sparcom completion zsh` prints it.
_sparcom() {{
    local -a first=(
{first}
    )
    local -a flags fields
    if ((CURRENT == 2)); then
        _describe command first
        return
    fi
    case $words[2] in
{cases}
        completion) compadd -- {shells}; return ;;
        help) compadd -- {commands}; return ;;
        *) _files; return ;;
    esac
    if [[ $PREFIX == --*=* ]]; then
        local flag=${{PREFIX%%=*}}
        compset -P '*='
        [[ $flag == --config ]] && compadd -- {configs}
        _files
    elif [[ $PREFIX == {fields}* ]]; then
        _describe -o field fields -S ''
    else
        # After a flag that takes no value comes a blank.
        setopt localoptions extendedglob
        local -a open=(${{(M)flags:#--[^:]#[=.]:*}}) whole=(${{flags:#--[^:]#[=.]:*}})
        _describe -o flag open -S '' -- whole
    fi
}}
if [[ $funcstack[1] == _sparcom ]]; then
    _sparcom "$@"
else
    compdef _sparcom sparcom
fi
""".replace("{fields}", FIELDS)


def _fish(first: Meanings, launchers: Mapping[str, Meanings]) -> str:
    lines = [f"complete -c sparcom -n __sparcom_first {_of_fish(word)} -d {_quoted(_plain(what), fish=True)}"
             for word, what in first.items()]  # fmt: skip
    for name, found in launchers.items():
        lines += [f"complete -c sparcom -n '__sparcom_is {name}' {_of_fish(word)} -d {_quoted(_plain(what), fish=True)}"
                  for word, what in found.items()]  # fmt: skip
        if "--config=" in found:
            lines.append(f"complete -c sparcom -n '__sparcom_is {name}' -l config -a '{' '.join(shipped('configs'))}'")
    return FISH.format(lines="\n".join(lines), commands=" ".join(commands()), shells=" ".join(SCRIPTS))


def _of_fish(word: str) -> str:
    """How fish is told of a word: a command, or a flag, which takes a file or nothing.

    fish may put a blank before a value, which a field that is true or false does not take: such is completed as true.
    """
    if not word.startswith("-"):
        return f"-a {word}"
    name = word.removeprefix("--").removesuffix("=")
    switch = word.startswith(FIELDS) and is_switch(name.removeprefix("config."))
    return f"-l {name}{' -r -F' if word.endswith('=') and not switch else ''}"


FISH = """\
# Completion of sparcom, as `sparcom completion fish` prints it.
function __sparcom_first
    test (count (commandline -opc)) -eq 1
end
function __sparcom_is
    set -l typed (commandline -opc)
    test (count $typed) -gt 1; and test "$typed[2]" = "$argv[1]"
end
complete -c sparcom -f
{lines}
complete -c sparcom -n '__sparcom_is status' -F
complete -c sparcom -n '__sparcom_is completion' -a '{shells}'
complete -c sparcom -n '__sparcom_is help' -a '{commands}'
"""


def _plain(meaning: str) -> str:
    return " ".join(meaning.split())


def _quoted(text: str, *, fish: bool = False) -> str:
    """A word in single quotes, in which fish knows a backslash, and other shells know nothing."""
    return "'" + (text.replace("\\", "\\\\").replace("'", "\\'") if fish else text.replace("'", "'\\''")) + "'"


SCRIPTS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
