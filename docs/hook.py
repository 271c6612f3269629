"""What mkdocs does beside its plugins: pages from files outside docs/, from notebooks and from launchers.

Links in the sources are relative and lead to files of the repository. Here they are turned to where the site has these:
a page, or a copy of the file.
"""

import ast
import re
import sys
from pathlib import Path
from posixpath import dirname, join, normpath, relpath

import jupytext
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sparcom_jax.shipped import commands  # noqa: E402

OUTSIDE = {"BUILD.md": "build.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages of the site."""
NAMES = "::: sparcom_jax.__all__"
"""Stands in docs/api.md for the public names."""
LINK = re.compile(r"(?<!`)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
CDN = re.compile(r"https://unpkg\.com/[^\"'`)]*")
"""What the theme's script would fetch for diagrams, and for browsers of before 2020."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are not in docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for notebook in sorted((ROOT / "docs/notebooks").glob("*.py")):
        content = notebook_page(notebook.read_text(encoding="utf-8"), notebook.name)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=content))
    files.append(File.generated(config, "commands.md", content=commands_page()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links to files of the repository to where the site has them."""
    here = page.file.src_uri
    if here == "api.md":
        markdown = markdown.replace(NAMES, names_page())
    source = next((name for name, made in OUTSIDE.items() if made == here), f"docs/{here}")

    def turned(match: re.Match[str]) -> str:
        target = normpath(join(dirname(source), match[1]))
        if not (ROOT / target).is_file():
            return match[0]  # mkdocs says what is wrong with it
        return f"]({relpath(_in_site(target, config, files), dirname(here) or '.')}{match[2] or ''})"

    return LINK.sub(turned, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Takes from the theme's script the addresses of what it would fetch; no page needs it."""
    for script in Path(config.site_dir).rglob("*.js"):
        text = script.read_text(encoding="utf-8")
        if CDN.search(text):
            script.write_text(CDN.sub("", text), encoding="utf-8")


def notebook_page(source: str, name: str) -> str:
    """The page of a notebook: its text, and its code in blocks.

    Args:
      source: the notebook, in jupytext's percent format.
      name: of its file.
    """
    cells = jupytext.reads(source, fmt="py:percent").cells
    parts = [cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```" for cell in cells]
    note = f"A notebook: `docs/notebooks/{name}` runs as it stands, and `jupytext --to ipynb` makes an .ipynb of it."
    return "\n\n".join([parts[0], note, *parts[1:]])


def commands_page() -> str:
    """Every command with its docstring."""
    parts = ["# Commands", "`sparcom COMMAND --help` lists the flags of a command and the settings that it reads, with "
             "their defaults. `python launch/COMMAND.py` in a clone is the same command."]  # fmt: skip
    for name, said in commands().items():
        first, _, rest = said.partition("\n\n")
        usage, _, more = rest.partition("\n\n")
        usage = re.sub(r"\n +", " ", usage).replace(f"launch/{name}.py", f"sparcom {name}")
        parts += [f"## {name}", first, f"```text\n{usage}\n```", more]
    return "\n\n".join(parts) + "\n"


def names_page() -> str:
    """What mkdocstrings is to describe: every name of `sparcom_jax.__all__`, where it is defined."""
    tree = ast.parse((ROOT / "sparcom_jax/__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    defined = {name.asname or name.name: f"{node.module}.{name.name}" for node in imports for name in node.names}
    (public,) = (ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__")  # fmt: skip
    kinds = {
        "Functions": [name for name in public if name[0].islower()],
        "Classes": [name for name in public if name[0].isupper() and not name.endswith("Settings")],
        "Settings": [name for name in public if name.endswith("Settings")],
    }
    parts = []
    for kind, names in kinds.items():
        parts += [f"## {kind}", *(f"::: {defined[name]}" for name in names)]
    return "\n\n".join(parts)


def _in_site(target: str, config: MkDocsConfig, files: Files) -> str:
    """Where the site has a file of the repository; one that it lacks is added."""
    if target in OUTSIDE:
        return OUTSIDE[target]
    if target == "README.md":
        return "index.md"
    if target.startswith("docs/notebooks/") and target.endswith(".py"):
        return f"{target.removeprefix('docs/').removesuffix('.py')}.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    copy = f"repository/{target if '.' in target else f'{target}.txt'}"
    if files.get_file_from_path(copy) is None:
        files.append(File.generated(config, copy, abs_src_path=str(ROOT / target)))
    return copy
