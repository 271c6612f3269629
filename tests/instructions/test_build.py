"""The builder: balanced, without duplicates, the same for the same seed; and its command."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.build import Built, build, write_rows
from sparcom_jax.instructions.card import gram_overlap, length_bin
from tests.conftest import SHARED

ROOT = Path(__file__).resolve().parents[2]
DOLLY = {"CLS": "classification", "QA": "open_qa", "GEN": "creative_writing", "SUM": "summarization"}
LENGTHS = {"short": 15, "medium": 50, "long": 120}


def words(seed: int, count: int) -> str:
    """Text of made-up words that no other seed gives."""
    random = np.random.default_rng(seed)
    return " ".join(f"w{number}" for number in random.integers(0, 10**9, count))


def jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve rows of each length for each category, in two corpora each for MATH."""
    directory = tmp_path_factory.mktemp("sources")
    seeds = iter(range(10**6))
    texts = {name: [words(next(seeds), count) for _ in range(12) for count in LENGTHS.values()]
             for name in ("CLS", "CODE", "QA", "GEN", "SUM", "MATH", "MATH2")}  # fmt: skip
    jsonl(directory / "dolly.jsonl", [
        {"instruction": text, "context": "", "response": f"yes{index}", "category": kind}
        for category, kind in DOLLY.items() for index, text in enumerate(texts[category])
    ])  # fmt: skip
    jsonl(directory / "humaneval.jsonl", [
        {"prompt": text, "canonical_solution": "pass", "test": "assert True", "entry_point": "f"}
        for text in texts["CODE"]
    ])  # fmt: skip
    jsonl(directory / "gsm8k.jsonl", [{"question": text, "answer": "#### 4"} for text in texts["MATH"]])
    jsonl(directory / "math.jsonl", [{"problem": t, "solution": "4", "answer": "4"} for t in texts["MATH2"]])
    return directory


@pytest.fixture(scope="module")
def built(sources: Path) -> Built:
    return build(sources, per_category=9, seed=0, blend=False)


def test_balanced_over_categories_lengths_and_corpora(built: Built) -> None:
    assert Counter(row["category"] for row in built.rows) == dict.fromkeys(
        ["CLS", "CODE", "QA", "GEN", "MATH", "SUM"], 9
    )
    assert set(Counter((row["category"], row["length_bin"]) for row in built.rows).values()) == {3}
    assert all(row["length_bin"] == length_bin(row["instruction"]) for row in built.rows)
    math = Counter((row["length_bin"], row["source"]) for row in built.rows if row["category"] == "MATH")
    assert set(math.values()) == {1, 2}
    assert len({row["id"] for row in built.rows}) == 54
    assert all(row["licence"] and row["origin"] for row in built.rows)
    assert built.notes == []


def test_the_seed_decides_and_nothing_else(built: Built, sources: Path, tmp_path: Path) -> None:
    texts = [row["instruction"] for row in built.rows]
    assert [row["instruction"] for row in build(sources, 9, 0, False).rows] == texts
    assert [row["instruction"] for row in build(sources, 9, 1, False).rows] != texts
    for path in sources.iterdir():  # other names, other order
        lines = path.read_text().splitlines(keepends=True)
        (tmp_path / f"z{len(lines)}{path.name}").write_text("".join(reversed(lines)))
    assert [row["instruction"] for row in build(tmp_path, 9, 0, False).rows] == texts


def test_duplicates_are_removed_across_corpora(sources: Path, tmp_path: Path) -> None:
    shutil.copytree(sources, tmp_path / "twice")
    questions = [json.loads(line)["question"] for line in (sources / "gsm8k.jsonl").read_text().splitlines()]
    jsonl(tmp_path / "twice" / "math.jsonl", [
        {"problem": f"{text.upper()} one more", "solution": "4", "answer": "4"} for text in questions
    ])  # fmt: skip
    rows = build(tmp_path / "twice", 36, 0, False).rows
    texts = [row["instruction"] for row in rows if row["category"] == "MATH"]
    assert len({text.lower().removesuffix(" one more") for text in texts}) == 36
    assert not [pair for pair in gram_overlap(texts) if pair[0] > 0.3]


def test_what_the_sources_do_not_allow_is_said(sources: Path, tmp_path: Path) -> None:
    shutil.copytree(sources, tmp_path / "short")
    lines = (sources / "humaneval.jsonl").read_text().splitlines(keepends=True)
    kept = [line for index, line in enumerate(lines) if index % 3 == 0 or index == 2]
    (tmp_path / "short" / "humaneval.jsonl").write_text("".join(kept))
    built = build(tmp_path / "short", 9, 0, False)
    assert built.notes == ["CODE: lengths are not balanced, the sources have no more: 0 medium of 3, 1 long of 3"]
    bins = Counter(row["length_bin"] for row in built.rows if row["category"] == "CODE")
    assert bins == {"short": 8, "long": 1}


def test_an_empty_category(sources: Path, tmp_path: Path) -> None:
    shutil.copytree(sources, tmp_path / "less")
    (tmp_path / "less" / "humaneval.jsonl").unlink()
    with pytest.raises(InputError, match=r"CODE: the sources give 0 rows .* 1 are needed \(0 were read"):
        build(tmp_path / "less", 1, 0, False)
    with pytest.raises(InputError, match=r"CLS: the sources give 36 rows .* 37 are needed \(36 were read"):
        build(sources, 37, 0, False)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="none: no file of a known corpus"):
        build(tmp_path / "none", 1, 0, False)


def test_blend(sources: Path) -> None:
    rows = build(sources, 9, 0, blend=True).rows
    for category in ("CLS", "CODE", "QA", "GEN", "MATH", "SUM"):
        own = [row for row in rows if row["category"] == category]
        assert [row["source"] == "ai" for row in own] == [True] * 9 + [False] * 9
        assert Counter(row["length_bin"] for row in own[:9]) == {"short": 3, "medium": 3, "long": 3}
    shipped = {row["id"]: row for row in sj.load_hexainst().rows}
    assert all(shipped[row["id"]] == row for row in rows if row["source"] == "ai")
    with pytest.raises(InputError, match="per_category 201: the shipped set has 200 rows of CLS to blend"):
        build(sources, 201, 0, blend=True)


def test_an_existing_output_is_not_touched(built: Built, tmp_path: Path) -> None:
    write_rows(built.rows, tmp_path / "rows.jsonl")
    assert sj.load_instructions(tmp_path / "rows.jsonl").rows == built.rows
    with pytest.raises(InputError, match=r"rows\.jsonl: exists already"):
        write_rows(built.rows, tmp_path / "rows.jsonl")


@pytest.mark.skipif(not SHARED.exists(), reason=f"public data sets are not at {SHARED}")
def test_real_corpora() -> None:
    built = build(SHARED, per_category=50, seed=0, blend=False)
    assert Counter(row["category"] for row in built.rows) == dict.fromkeys(
        ["CLS", "CODE", "QA", "GEN", "MATH", "SUM"], 50
    )
    assert {file.corpus for file in built.files} == {
        None, "banking77", "clinc150", "flan-cot", "gsm8k", "human-eval", "math-500", "mbpp", "natural-instructions",
        "nq-open", "scitldr", "self-instruct", "trivia-qa",
    }  # fmt: skip
    texts = [row["instruction"] for row in built.rows]
    assert not [pair for pair in gram_overlap(texts) if pair[0] > 0.3]
    assert not [text for text in texts if "\r" in text or "<|" in text or text != text.strip()]
    assert Counter(row["length_bin"] for row in built.rows if row["category"] == "CODE") == {
        "short": 17, "medium": 17, "long": 16,
    }  # fmt: skip


def command(*flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "launch/hexainst.py", *flags], capture_output=True, text=True, cwd=ROOT)


def test_the_card_as_a_command(tmp_path: Path) -> None:
    shipped = command("--check=hexainst")
    assert (shipped.returncode, shipped.stderr.splitlines()[0]) == (0, "hexainst: hexainst")
    assert shipped.stdout.endswith("0 faults\n")
    jsonl(tmp_path / "rows.jsonl", [{"id": "a", "category": "X", "instruction": "Do it."}])
    spoilt = command(f"--check={tmp_path / 'rows.jsonl'}")
    assert spoilt.returncode == 1
    assert "FAULT X: 1 of 1 rows are outside in length, allowed are none" in spoilt.stdout


def test_the_builder_as_a_command(sources: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.jsonl"
    done = command(f"--sources={sources}", "--per_category=3", "--seed=5", f"--output={output}")
    assert (done.returncode, done.stderr.splitlines()[0]) == (0, f"hexainst: {output}")
    assert "gsm8k.jsonl: gsm8k: 36 rows, 0 left out" in done.stdout
    assert sj.load_instructions(output).rows == build(sources, 3, 5, False).rows


@pytest.mark.parametrize(("flags", "message"), [
    ([], "give either --check=FILE or --sources=DIR with --output=FILE"),
    (["--sources=nowhere"], "--sources needs --output=FILE"),
    (["--sources=nowhere", "--output=x.jsonl"], "nowhere: no such directory"),
    (["--check=nowhere"], "nowhere: cannot be read"),
    (["--sources=tests", "--output=x.jsonl", "--per_category=0"], "per_category 0: must be at least 1"),
])  # fmt: skip
def test_bad_flags(flags: list[str], message: str) -> None:
    done = command(*flags)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (ROOT / "x.jsonl").exists()
