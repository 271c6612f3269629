"""The command `sparcom`: that it is the launchers, by name; its help, errors and exit codes; and completion."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import sparcom_jax as sj
from sparcom_jax.config_flag import is_switch
from sparcom_jax.shipped import docstring, shipped
from sparcom_jax.version import VERSION
from tests.synthetic import make_run

ROOT = Path(__file__).resolve().parents[2]
LAUNCHERS = sorted(path.stem for path in (ROOT / "launch").glob("*.py"))
COMMANDS = sorted([*LAUNCHERS, "completion", "status"])
SPARCOM = [sys.executable, "-c", "from sparcom_jax.console import main; main()"]
# Runs `sparcom` where what takes long to import is not there.
QUICK = """
import sys
sys.modules.update(dict.fromkeys(("jax", "flax", "transformers", "scipy", "orbax", "torch", "altair"), None))
from sparcom_jax.console import main
main()
"""


def run(program: list[str], *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*program, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def sparcom(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run(SPARCOM, *arguments, cwd=cwd)


def quick(*arguments: str) -> str:
    """What a command prints that succeeds without any of the heavy modules."""
    done = run([sys.executable, "-c", QUICK], *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_version() -> None:
    assert quick("--version") == f"sparcom_jax {VERSION}\n"


def test_help_has_a_line_for_every_command() -> None:
    shown = quick("--help")
    assert shown == quick("help") == quick("-h")
    lines = dict(re.findall(r"^  (\w+) +(\S.*)$", shown, re.MULTILINE))
    assert list(lines) == COMMANDS
    for launcher in LAUNCHERS:
        assert lines[launcher] == docstring(ROOT / "launch" / f"{launcher}.py").splitlines()[0]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_help_is_that_of_the_launcher_by_another_name(launcher: str, completions: dict[str, list[str]]) -> None:
    called = quick(launcher, "--help")
    by_path = run([sys.executable, str(ROOT / "launch" / f"{launcher}.py")], "--help").stdout
    usage, _, rest = called.partition("\n\nflags:\n\n")
    assert f"\nsparcom {launcher} --" in usage
    assert "launch/" not in usage
    usage_by_path, _, rest_by_path = by_path.partition("\n\nflags:\n\n")
    assert rest.removeprefix(f"sparcom {launcher}:") == rest_by_path.removeprefix(f"{ROOT}/launch/{launcher}.py:")
    assert usage.split() == usage_by_path.replace(f"launch/{launcher}.py", f"sparcom {launcher}").split()
    shorter = len(f"launch/{launcher}.py") - len(f"sparcom {launcher}")
    indents = [[len(line) - len(line.lstrip()) for line in text.splitlines()] for text in (usage, usage_by_path)]
    assert indents[0] == [indent and indent - shorter for indent in indents[1]]
    # What completion offers is what help lists.
    flags = re.findall(r"^  --(\[no\])?([\w-]+): ", rest, re.MULTILINE)
    fields = re.findall(r"^  --config\.(\S+?)=", rest, re.MULTILINE)
    boolean = {name for no, name in flags if no}
    wanted = {f"--{name}" if name in boolean else f"--{name}=" for _, name in flags} | {
        f"--no{name}" for name in boolean
    }
    wanted |= {f"--config.{field}=" for field in fields} | {"--help"} | ({"--config."} if fields else set())
    assert set(completions[launcher]) == wanted


@pytest.mark.parametrize("arguments", [("help", "identify"), ("identify", "-h"), ("--help", "identify")])
def test_ways_to_ask_for_help(arguments: tuple[str, ...]) -> None:
    assert quick(*arguments) == quick("identify", "--help")


@pytest.mark.parametrize("name", ["completion", "status"])
def test_help_of_commands_that_are_no_launchers(name: str) -> None:
    for arguments in ((name, "--help"), ("help", name)):
        assert quick(*arguments).splitlines()[2].startswith(f"sparcom {name} ")


BAD = {
    "a command that is not there": (("captrue",), "no command 'captrue'; did you mean capture? sparcom --help lists"),
    "one that is like none": (("xyzzy", "--run=r"), "no command 'xyzzy'; sparcom --help lists them"),
    "a flag in the place of a command": (("--run=r",), "no command '--run=r'; sparcom --help lists them"),
    "help of what is not there": (("help", "captrue"), "no command 'captrue'; did you mean capture?"),
    "a path in the place of a command": (("../launch/capture",), "no command '../launch/capture'; "),
    "a bad flag": (("identify", "--sauce=r"), "sauce"),
    "a flag that is missing": (("identify",), "--run"),
    "an argument that is no flag": (("identify", "--run=r", "extra"), "unexpected argument 'extra'"),
    "a flag of absl": (("identify", "--run=r", "--only_check_args"), "flag --only_check_args is of no use here"),
    "a field that is not read": (("identify", "--run=r", "--config.capture.keep=sets"), "has no effect on this"),
    "no such run": (("identify", "--run=nowhere"), "nowhere: not a run"),
    "a config by its name, but no run": (("identify", "--run=nowhere", "--config=demo"), "nowhere: not a run"),
    "a name apart from its flag": (("identify", "--run=nowhere", "--config", "demo"), "nowhere: not a run"),
    "a path that only the package has": (
        ("identify", "--run=nowhere", "--config=configs/demo.py"), "nowhere: not a run",
    ),
    "no such config": (
        ("identify", "--run=r", "--config=defalt"), "--config=defalt: no such file; configs of the package: deepseek",
    ),
    "status of nothing": (("status",), "usage: sparcom status RUN|DIR"),
    "status of two": (("status", "a", "b"), "usage: sparcom status RUN|DIR"),
    "status by a flag": (("status", "--run=a"), "usage: sparcom status RUN|DIR"),
    "completion for no shell": (("completion",), "usage: sparcom completion bash|zsh|fish"),
    "completion for another shell": (("completion", "tcsh"), "shell 'tcsh' is not known; known: bash, zsh, fish"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, tmp_path: Path) -> None:
    arguments, message = BAD[case]
    done = sparcom(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_no_command_at_all() -> None:
    done = sparcom()
    assert (done.returncode, done.stdout, done.stderr) == (2, "", quick("--help"))


def test_a_command_does_what_its_launcher_does(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", [i % 3 for i in range(12)])
    done = sparcom("identify", "--run=run", "--epsilon=0.1", "--ties=exact", "--name=a", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "run/sets/a\n")
    launcher = [sys.executable, str(ROOT / "launch/identify.py")]
    run(launcher, "--run=run", "--epsilon=0.1", "--ties=exact", "--name=b", cwd=tmp_path)
    assert sj.open_sets(made, "a").digest == sj.open_sets(made, "b").digest


def test_other_exit_codes_are_the_launchers(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "a", "category": "X", "instruction": "x"}\n')
    assert sparcom("hexainst", "--check=rows.jsonl", cwd=tmp_path).returncode == 1


def test_a_config_of_the_user_comes_before_one_of_the_package(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()  # is no file, and does not count
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/demo.py").write_text("def get_config():\n    raise ValueError('of the user')\n")
    done = sparcom("identify", "--run=nowhere", "--config=demo", cwd=tmp_path)
    assert done.stderr.startswith("error: nowhere: not a run")
    done = sparcom("identify", "--run=nowhere", "--config=configs/demo.py", cwd=tmp_path)
    assert done.stderr == "error: --config=configs/demo.py: ValueError: of the user\n"


def test_output_into_a_pipe_that_ends() -> None:
    for arguments in (("--help",), ("identify", "--help")):
        with subprocess.Popen([*SPARCOM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The scripts of all shells."""
    directory = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        (directory / shell).write_text(quick("completion", shell))
    return {path.name: path for path in directory.iterdir()}


def ask(script: Path, *questions: list[str]) -> list[list[str]]:
    """What bash would complete the last of each list of words to."""
    asked = []
    for words in questions:
        last = len(words) - 1
        asked.append(f"COMP_WORDS=({' '.join(map(repr, words))}) COMP_CWORD={last}; _sparcom; "
                     f"printf '%s ' \"${{COMPREPLY[@]}}\"; echo")  # fmt: skip
    program = "\n".join(['source "$1"', "complete -p sparcom", *asked])
    done = subprocess.run(["bash", "--norc", "-c", program, "bash", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    registered, *answers = done.stdout.splitlines()
    assert registered == "complete -o default -F _sparcom sparcom"
    return [answer.split() for answer in answers]


@pytest.fixture(scope="module")
def completions(scripts: dict[str, Path]) -> dict[str, list[str]]:
    """By launcher, all that bash offers to begin an argument with."""
    questions = [["sparcom", name, begin] for name in LAUNCHERS for begin in ("--", "--config.")]
    answers = ask(scripts["bash"], *questions)
    found: dict[str, list[str]] = {name: [] for name in LAUNCHERS}
    for (_, name, _), answer in zip(questions, answers, strict=True):
        found[name] += answer
    return found


def test_bash_completes_commands_flags_fields_and_configs(scripts: dict[str, Path]) -> None:
    answers = ask(
        scripts["bash"],
        ["sparcom", ""],
        ["sparcom", "ca"],
        ["sparcom", "capture", "--mo"],
        ["sparcom", "capture", "--model", "=", "m", "--ou"],
        ["sparcom", "capture", "--config.capture.max"],
        ["sparcom", "capture", "--config.identify.eps"],
        ["sparcom", "analyze", "--config", "=", "llama"],
        ["sparcom", "analyze", "--config", "="],
        ["sparcom", "capture", "--model", "="],
        ["sparcom", "capture", "--model", "=", "mod"],
        ["sparcom", "status", "ru"],
        ["sparcom", "completion", ""],
        ["sparcom", "help", "ca"],
        ["sparcom", "xyzzy", "--"],
    )
    assert answers[0] == [*COMMANDS, "help", "--help", "--version"]
    assert answers[1:7] == [["capture"], ["--model="], ["--output="], ["--config.capture.max_tokens="],
                            ["--config.identify.epsilon="], ["llama2_7b", "llama31_8b"]]  # fmt: skip
    assert answers[7] == list(shipped("configs"))
    assert answers[8:11] == [[], [], []]  # files, which bash knows
    assert answers[11:] == [["bash", "zsh", "fish"], ["capture"], []]


def typed(shell: list[str], keys: str, home: Path) -> str:
    """What stands on a terminal after keys were typed at the prompt of a shell."""
    program = ("import pty, os, sys\n"
               "pid, terminal = pty.fork()\n"
               "if pid == 0: os.execvp(sys.argv[2], sys.argv[2:])\n"
               "os.read(terminal, 100)\n"
               "os.write(terminal, sys.argv[1].encode())\n"
               "out = b''\n"
               "try:\n"
               "    while part := os.read(terminal, 1000): out += part\n"
               "except OSError: pass\n"
               "sys.stdout.buffer.write(out)\n")  # fmt: skip
    environment = os.environ | {"TERM": "dumb", "INPUTRC": "/dev/null", "HOME": str(home), "ZDOTDIR": str(home),
                                "HISTFILE": ""}  # fmt: skip
    done = subprocess.run([sys.executable, "-c", program, keys, *shell], cwd=home, capture_output=True, text=True,
                          timeout=60, env=environment)  # fmt: skip
    return done.stdout.replace("\r", "")


def test_bash_itself_completes_at_its_prompt(scripts: dict[str, Path], tmp_path: Path) -> None:
    """With a terminal: a flag without a blank after it, and then the name of a file."""
    (tmp_path / "model-directory").mkdir()
    keys = "sparcom capture --mod\tmodel-d\t\x01echo \r exit\r"
    shown = typed(["bash", "--rcfile", str(scripts["bash"]), "-i"], keys, tmp_path)
    assert "\nsparcom capture --model=model-directory/" in shown, shown


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_zsh_itself_completes_at_its_prompt(scripts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model-directory").mkdir()
    rc = ["autoload -U compinit", "compinit -u -D", "bindkey -e", f"source {scripts['zsh']}",
          "sparcom() { print -r -- called: $* }", "PS1='% '"]  # fmt: skip
    (tmp_path / ".zshrc").write_text("\n".join(rc) + "\n")
    asked = {
        "capture --mod\tmodel-d\t": "capture --model=model-directory",
        "capture --config.capture.max\t3": "capture --config.capture.max_tokens=3",
        "analyze --config=llama2\t": "analyze --config=llama2_7b",
        "identify --poo\t--run=x": "identify --pool --run=x",
        "comple\tfi\t": "completion fish",
    }
    lines = "".join(f"sparcom {keys}\r" for keys in asked)
    shown = typed(["zsh", "-i"], f"{lines}exit\r", tmp_path).splitlines()
    assert [line.rstrip("/") for line in shown if line.startswith("called: ")] == [
        f"called: {wanted}" for wanted in asked.values()
    ]


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_commands_flags_fields_and_configs(scripts: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "model-directory").mkdir()
    asked = {
        "": [*COMMANDS, "help"],
        "ca": ["capture"],
        "capture --mo": ["--model"],
        "capture --model=mod": ["--model=model-directory/"],
        "capture --config.capture.max": ["--config.capture.max_tokens"],
        "identify --config.identify.po": ["--config.identify.pool"],
        "analyze --config=llama": ["--config=llama2_7b", "--config=llama31_8b"],
        "status mod": ["model-directory/"],
        "completion ": ["bash", "fish", "zsh"],
        "help ca": ["capture"],
    }
    program = "\n".join([f"source {scripts['fish']}", *(f"complete -C 'sparcom {words}'; echo ---" for words in asked)])
    done = subprocess.run(["fish", "--no-config", "-c", program], cwd=tmp_path, capture_output=True, text=True,
                          timeout=60, env=os.environ | {"HOME": str(tmp_path)})  # fmt: skip
    answers = [part.strip("\n").splitlines() for part in done.stdout.split("---\n")[:-1]]
    for (words, wanted), answer in zip(asked.items(), answers, strict=True):
        assert sorted(line.split("\t")[0] for line in answer) == sorted(wanted), words


def test_the_scripts_are_sound(scripts: dict[str, Path]) -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or "shellcheck"
    assert run([shellcheck, "--shell=bash"], str(scripts["bash"])).stdout == ""
    for shell in ("bash", "zsh", "fish"):
        if shutil.which(shell):
            assert run([shell, "-n"], str(scripts[shell])).stderr == ""


def test_zsh_and_fish_are_told_the_same(scripts: dict[str, Path], completions: dict[str, list[str]]) -> None:
    zsh, fish = scripts["zsh"].read_text(), scripts["fish"].read_text()
    for launcher, offered in completions.items():
        arrays = re.search(rf"^        {launcher}\) flags=\((.*)\)\n +fields=\((.*)\) ;;$", zsh, re.MULTILINE)
        assert arrays is not None
        assert {*re.findall(r"'(--[^:']+):", f"{arrays[1]} {arrays[2]}")} == {*offered}
        named = re.findall(rf"^complete .* '__sparcom_is {launcher}' -l (\S+)( -r)?", fish, re.MULTILINE)
        fields = [one for one in offered if one.startswith("--config.") and one != "--config."]
        switches = {one for one in fields if is_switch(one.removeprefix("--config.").removesuffix("="))}
        found = {f"--{name}{'=' if value or f'--{name}=' in switches else ''}" for name, value in named}
        assert found >= {*offered} - {"--config."}
        assert {f"--{name}=" for name, value in named if not value} >= switches
    assert re.findall(r"^        '(\w+):", zsh, re.MULTILINE) == [*COMMANDS, "help"]
    assert re.findall(r"__sparcom_first -a (\S+)", fish) == [*COMMANDS, "help"]
