"""Launchers as programs of their own."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def command(launcher: str, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch" / f"{launcher}.py"), *flags]


def environment(work: Path) -> dict[str, str]:
    return os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(work / "xla")}


def launch(work: Path, launcher: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(launcher, *flags), cwd=work, capture_output=True, text=True, env=environment(work))


def done(work: Path, launcher: str, *flags: str) -> str:
    result = launch(work, launcher, *flags)
    assert result.returncode == 0, result.stderr
    # The last thing that is said is the summary, in plain lines.
    assert re.search(rf"^{launcher}: \D", result.stderr, re.MULTILINE), result.stderr
    assert all(one.isprintable() or one == "\n" for one in result.stderr), result.stderr
    return result.stdout.strip()
