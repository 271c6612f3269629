"""The page in a real browser: Debian's chromium, headless."""

import html
import json
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from sparcom_jax.report.page import report
from tests.synthetic_results import make_results

CHROMIUM = shutil.which("chromium")
DARK = "--blink-settings=preferredColorScheme=0"
NARROW = "--window-size=420,900"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    return report(make_results(root), root / "report.html")


def run(page: Path, script: str, *flags: str, before: str = "") -> tuple[Any, list[str]]:
    """What a script says of the page, which gets it as its last one, and what the console said.

    Args:
      page: the report.
      script: the body of an async function; what it returns becomes JSON.
      flags: of the browser.
      before: a script that is run first.
    """
    text = page.read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # which would refuse the script
    last = f"""addEventListener("load", async () => {{
      const wait = (time) => new Promise((done) => setTimeout(done, time));
      await wait(1000);
      const said = document.createElement("pre");
      try {{ said.textContent = JSON.stringify(await (async () => {{ {script} }})()); }}
      catch (error) {{ said.textContent = JSON.stringify("failed: " + error); }}
      said.id = "said";
      document.body.replaceChildren(said);
    }});"""
    at = text.rindex("</body>")
    copy = page.with_name("copy.html")
    copy.write_text(f"{text[:at]}<script>{before}</script><script>{last}</script>{text[at:]}", encoding="utf-8")
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000",
         "--enable-logging=stderr", *(flags or ("--window-size=1300,900",)), "--dump-dom", copy.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    found = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1])), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]


def test_its_own_policy_lets_it_run(page: Path) -> None:
    done = subprocess.run(
        [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=9000",
         "--enable-logging=stderr", "--window-size=1300,900", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    assert not [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    assert 'data-drawn="' in done.stdout


def test_only_the_charts_in_view_are_drawn(page: Path) -> None:
    script = """
      const drawn = () => [...document.querySelectorAll("[data-drawn]")].map((place) => place.id);
      const first = drawn(), all = document.querySelectorAll("script[data-chart]").length;
      const top = document.querySelector(".chart").getBoundingClientRect().top;
      return {first, all, top};
    """
    said, console = run(page, script)
    assert console == []
    assert said["first"][0].startswith("key-")
    assert len(said["first"]) < said["all"] / 5
    assert said["top"] < 900


@pytest.mark.parametrize("flags", [(), (DARK,), (NARROW,)], ids=["wide", "dark", "narrow"])
def test_axe_finds_no_violation(page: Path, flags: tuple[str, ...]) -> None:
    axe = resources.files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    script = """
      const found = await axe.run(document);
      return found.violations.map((one) => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)]);
    """
    said, console = run(page, script, *flags, before=axe)
    assert (said, console) == ([], [])


def test_nothing_is_wider_than_a_narrow_page(page: Path) -> None:
    said, _ = run(page, "return document.documentElement.scrollWidth;", NARROW)
    assert said <= 500  # the least width of a window of chromium


def test_choices_links_tables_and_cards(page: Path) -> None:
    script = """
      const shown = (choice) => [...choice.children].filter((one) => one.matches(".option") && !one.hidden).length;
      const before = [...document.querySelectorAll(".choice")].map(shown);
      const select = document.querySelector("#own select");
      select.selectedIndex = 1;
      select.dispatchEvent(new Event("change"));
      const units = [...document.querySelectorAll(".choice[data-choice=units] > label select")].map((one) => one.value);
      location.hash = "#L0.N2";
      await wait(500);
      const card = document.querySelector("details.card[data-unit='L0.N2']");
      const table = [...document.querySelectorAll("table.data")].find((one) => one.tBodies[0].rows.length > 8);
      const at = [...table.rows[0].cells].findIndex((one) => one.classList.contains("n"));
      const value = (row) => parseFloat(row.cells[at].textContent.replace(",", ""));
      const column = () => [...table.tBodies[0].rows].map(value);
      table.rows[0].cells[at].querySelector("button").click();
      const up = column(), sort = table.rows[0].cells[at].getAttribute("aria-sort");
      table.rows[0].cells[at].querySelector("button").click();
      const filter = table.closest(".wide").previousElementSibling.querySelector("input");
      filter.value = "no such text anywhere";
      filter.dispatchEvent(new Event("input"));
      const left = [...table.tBodies[0].rows].filter((row) => !row.hidden).length;
      const json = JSON.parse(card.querySelector("script").textContent);
      return {before, units, open: card.open, up, down: column(), sort, left, unit: json.unit};
    """
    said, console = run(page, script)
    assert console == []
    assert set(said["before"]) == {1}
    assert len(set(said["units"])) == 1
    assert said["open"] is True
    known = [value for value in said["up"] if value is not None]
    assert known == sorted(known)
    assert [value for value in said["down"] if value is not None] == known[::-1]
    assert (said["sort"], said["left"], said["unit"]) == ("ascending", 0, "L0.N2")


def test_what_is_not_in_view_is_printed(page: Path) -> None:
    script = """
      dispatchEvent(new Event("beforeprint"));
      await wait(4000);
      const visible = [...document.querySelectorAll(".chart")].filter((one) => one.offsetParent);
      return visible.filter((one) => !one.dataset.drawn).map((one) => one.id);
    """
    assert run(page, script)[0] == []
