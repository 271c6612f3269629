"""The documents: links, anchors, commands, flags, Python, quoted errors, notebooks, the tutorial, and the site."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from zarr.errors import ZarrUserWarning

import sparcom_jax as sj
from sparcom_jax.settings import checked
from sparcom_jax.shipped import commands, shipped
from tests import checkpoints
from tests.synthetic import MIXED, make_run, random_masks, write_sets

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))
PAGES = [
    *(ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *NOTEBOOKS,
]
COMMANDS = commands()
SPARCOM = [sys.executable, "-c", "from sparcom_jax.console import main; main()"]
OF_SITE = ("mkdocs", "material", "mkdocstrings_handlers", "jupytext")
"""What builds the site, the extra `docs`."""
CHATML = """{% for m in messages %}<|im_start|>{{ m['role'] }}
{{ m['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def text_of(page: Path) -> str:
    """A page; of a notebook its comments, which hold its text."""
    text = page.read_text(encoding="utf-8")
    return text if page.suffix == ".md" else "\n".join(re.findall(r"^# ?(.*)$", text, re.MULTILINE))


def fenced(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def anchors(page: Path) -> set[str]:
    """Where links into a page may lead: its headings, as they are turned to ids."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", without_code(text_of(page)), re.MULTILINE):
        slug = re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower())
        found.add(next(one for one in (slug, *(f"{slug}_{n}" for n in range(1, 99))) if one not in found))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", without_code(text_of(page))))
    for link in links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), link
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.is_file(), link
        assert file.is_relative_to(ROOT), link
        assert not anchor or anchor in anchors(file), link


def called(page: Path) -> Iterator[list[str]]:
    """The words of every command that a page calls: in its blocks of code, and within a line as `capture --flag`."""
    blocks = "\n".join(re.findall(r"^(?: {4}.*|)$", without_code(text_of(page)), re.MULTILINE))
    blocks += "\n" + "\n".join(fenced(page, "(?:sh|text)"))
    for line in blocks.replace("\\\n", " ").splitlines():
        words = line.split(" #")[0].split("      ")[0].split()
        for launcher in (at for at, word in enumerate(words) if word.startswith("launch/")):
            name = "capture" if words[launcher].endswith("slurm.sbatch") else Path(words[launcher]).stem
            if words[launcher].endswith((".py", "slurm.sbatch")):
                yield [name, *words[launcher + 1 :]]
        if words[:1] == ["sparcom"]:
            yield words[1:]
    for span in re.findall(r"`([^`\n]+)`", text_of(page)):
        words = span.split()
        words = words[words[:1] == ["sparcom"] :]
        if words and words[0] in COMMANDS and any(word.startswith("--") for word in words):
            yield words


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """What the arguments of every command may begin with."""
    program = (
        "import json; from sparcom_jax.completion import options; from sparcom_jax.shipped import shipped\n"
        "print(json.dumps({name: list(options(path)) for name, path in shipped('launch').items()}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    return {name: set(found) for name, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_flags_exist(page: Path, options: dict[str, set[str]]) -> None:
    placeholders = ("COMMAND", "....py", "NAME", "--help", "--version", "...")
    for name, *arguments in called(page):
        if name in placeholders:
            continue
        assert name in COMMANDS, (name, arguments)
        for argument in arguments:
            flag, equals, value = argument.strip("[],;)(|").partition("=")
            if not flag.startswith("--") or flag == "--help":
                continue
            assert flag + equals in options[name] or (f"{flag}=" in options[name] and not equals), (name, argument)
            if flag == "--config" and "NAME" not in value:
                assert value in (*shipped("configs"), "my_study.py") or (ROOT / value).is_file(), argument
    for field in re.findall(r"`(--config\.[\w.]+=?)", text_of(page)):
        assert field.rstrip("=").endswith("FIELD") or any(field.rstrip("=") + "=" in of for of in options.values()), (
            field
        )


def test_commands_are_found_in_pages() -> None:
    """Of what the test above rests on."""
    found = {name_of(page): [name for name, *_ in called(page)] for page in PAGES}
    assert found["docs/how-to/step_by_step.md"][:4] == ["convert", "capture", "identify", "evaluate"]
    assert found["docs/how-to/pods_and_slurm.md"] == ["convert", "capture", "capture", "capture"]
    assert found["README.md"][0] == "analyze"
    assert "identify" in found["docs/how-to/many_runs.md"]


def test_the_readme_lists_every_command() -> None:
    rows = re.findall(r"^\| (`.*`) \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    listed = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == list(COMMANDS)


@pytest.mark.parametrize(
    ("page", "place"), [("README.md", "outputs/demo/runs/moe-tuned"), ("docs/store.md", "outputs/tutorial/run")]
)
def test_python_blocks_one_after_the_other(
    page: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [i % 3 for i in range(72)]
    run = make_run(tmp_path / place, labels, groups=MIXED, categories=("CODE", "QA", "SUM"))
    masks = random_masks(run)
    write_sets(run, masks)
    sj.select(run, sj.SelectSettings(selector="auroc", share=0.02))
    monkeypatch.chdir(tmp_path)
    blocks = fenced(ROOT / page, "python")
    known: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)
        exec("\n".join(blocks), known)
    assert known["count"].shape == run.count("mlp").shape
    if page == "README.md":
        assert len(blocks) == 3
        assert known["units"].mask["routed"].shape == known["core"].shape
        return
    assert len(blocks) == 6
    count = run.read("mlp/positive_count")
    assert (known["layer"] == count[:, 0]).all()
    assert (known["first"] == known["one"].astype("float32")).all()
    assert (known["frequency"].to_numpy() == count / run.token_count[:, None, None]).all()
    assert (known["held"] == masks["mlp"]).all()
    assert (known["masks"]["mlp/CODE"] == sj.open_units(run, "auroc").mask["mlp"][0]).all()


def test_the_config_of_many_runs_is_one() -> None:
    known: dict[str, Any] = {}
    (block,) = fenced(ROOT / "docs/how-to/many_runs.md", "python")
    exec(block, known)
    assert list(checked(known["get_config"]()).pairs) == ["small", "large"]


def messages() -> list[str]:
    """Every message of the package, as a pattern of what it can be."""
    found = []
    for path in (ROOT / "sparcom_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            fixed = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
            if sum(map(len, fixed)) >= 12:
                found.append(
                    "".join(re.escape(part.value) if isinstance(part, ast.Constant) else ".*" for part in parts)
                )
    return found


def test_quoted_errors_are_those_of_the_source() -> None:
    quoted = re.findall(r"^`(.+)`\n:   \S", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert len(quoted) >= 40
    patterns = [re.compile(pattern) for pattern in messages()]
    assert [message for message in quoted if not any(pattern.fullmatch(message) for pattern in patterns)] == []
    assert not any(pattern.fullmatch("RUN: no such set as NAME") for pattern in patterns)


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which the commands of the tutorial ran in order, on a tiny checkpoint and fewer rows."""
    work = tmp_path_factory.mktemp("tutorial")
    model = checkpoints.save_model(work / "tiny", "llama", intermediate_size=512, max_position_embeddings=4096)
    (model / "chat_template.jinja").write_text(CHATML)
    page = (ROOT / "docs/tutorial.md").read_text()
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    ran = []
    for language, block in blocks:
        lines = [block] if language == "python" else block.replace("\\\n", "").splitlines()
        for line in lines:
            words = shlex.split(line.replace(".cache/SmolLM2-135M-Instruct.Q4_1.gguf", "tiny"))
            if language == "sh" and words[0] != "sparcom":
                ran.append(line)
                continue
            program = (
                [sys.executable, "-c", block.replace("% 5", "% 15")] if language == "python" else [*SPARCOM, *words[1:]]
            )
            done = subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
            for shown in done.stdout.splitlines():
                assert " " in shown or shown in page, (line, shown)
            ran.append(words[1] if language == "sh" else "python")
    assert ran[:2] == ["make weights", ". .venv/bin/activate"]
    steps = [
        "convert",
        "python",
        "hexainst",
        "capture",
        "identify",
        "evaluate",
        "select",
        "ablate",
        "explore",
        "report",
    ]
    assert [step for step in ran[2:] if step != "status"] == steps
    return work / "outputs/tutorial"


def test_the_tutorial_ends_with_a_report(tutorial: Path) -> None:
    page = (tutorial / "report.html").read_text()
    for kind in ("evaluate", "ablate", "explore"):
        assert f'-{kind}-{kind}"' in page
    sizes = json.loads((tutorial / "run/zarr.json").read_text())["attributes"]["instructions"]
    assert sizes["count"] == 90
    assert re.search(r"^weights:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def notebook(path: Path, run: Path, figures: Path) -> str:
    names = {
        "SPARCOM_RUN": str(run),
        "SPARCOM_FIGURES": str(figures),
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        [sys.executable, str(path)], env=os.environ | names, cwd=figures.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_notebooks_run(tutorial: Path, tmp_path: Path) -> None:
    printed = {path.stem: notebook(path, tutorial / "run", tmp_path / "figures") for path in NOTEBOOKS}
    assert printed.keys() == {"from_run_to_figure", "tour_of_a_unit"}
    assert "46 instructions chose, 44 are held out" in printed["from_run_to_figure"]
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"depth.svg", "units.svg"}
    for title in ("raises", "lowers", "MATH", "above 0 at"):
        assert f"\n{title} " in printed["tour_of_a_unit"]


def test_a_figure_of_a_mixture_of_experts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [i % 3 for i in range(72)], groups=MIXED)
    sj.select(run, sj.SelectSettings(size=40, expert_size=1, control_length=False))
    notebook(ROOT / "docs/notebooks/from_run_to_figure.py", tmp_path / "run", tmp_path / "figures")
    assert (tmp_path / "figures/units.svg").read_text().count("units of: ") >= 9


class Resources(HTMLParser):
    """What a browser loads with a page: all but the targets of links."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if (name in ("src", "srcset", "data", "poster") or (name == "href" and tag not in ("a", "area"))) and value:
                self.loaded.append(value)
            if name == "style" and value:
                self.loaded += re.findall(r"url\(([^)]*)\)", value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    lacking = [name for name in OF_SITE if find_spec(name) is None]
    if lacking:
        pytest.skip(f"no {', '.join(lacking)}: pip install -e '.[docs]'")
    directory = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(directory)]
    done = subprocess.run(
        build, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return directory


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        resources = Resources()
        resources.feed(page.read_text(encoding="utf-8"))
        assert resources.loaded
        for address in resources.loaded:
            assert not re.match(r"\s*(\w+:)?//", address), (page.name, address)
            local = address.partition("#")[0].partition("?")[0]
            if page.name != "404.html" and not local.startswith("data:"):
                assert (page.parent / local).exists(), (page.name, address)
        assert 'class="mermaid"' not in page.read_text(encoding="utf-8")
    for style in site.rglob("*.css"):
        assert not re.search(r"""@import|url\(\s*["']?(\w+:)?//""", style.read_text(encoding="utf-8")), style
    for script in site.rglob("*.js"):
        content = script.read_text(encoding="utf-8")
        assert not re.search(r"unpkg|jsdelivr|cdnjs|googleapis", content), script
        assert not re.search(r"""fetch\(["'`]https?:""", content), script


def test_the_site_has_every_page_name_and_command(site: Path) -> None:
    for page in (*(ROOT / "docs").rglob("*.md"), *NOTEBOOKS):
        assert (site / page.relative_to(ROOT / "docs").with_suffix(".html")).is_file(), page
    described = (site / "api.html").read_text()
    for name in sj.__all__:
        assert name == "__version__" or re.search(rf'<h3 id="[\w.]+\.{name}"', described), name
    assert "The instructions that ship with the package" in described
    listed = (site / "commands.html").read_text()
    for name in COMMANDS:
        assert f'<h2 id="{name}">' in listed, name
    assert (site / "repository/LICENSE.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert 'href="repository/LICENSE.txt"' in (site / "hexainst.html").read_text()
