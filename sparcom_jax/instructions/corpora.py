"""The native formats of public corpora: how a record is recognised, and what it is as an instruction.

What a corpus does not say of a row, such as its category, is taken from the corpus's own metadata (task names,
categories, is_classification), else from its words; records for which neither tells give no row.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Record = dict[str, Any]

EMPTY_INPUTS = {"", "<noinput>", "noinput", "no input", "n/a", "none"}
INTENTS_OFFERED = (3, 14, 40)

# Words that tell the category of an instruction whose corpus does not; the first category that has one of its words.
TELLING_WORDS = {
    "SUM": {"condense", "summarise", "summarize", "summary", "summarization"},
    "CLS": {"categorise", "categorize", "classify", "label"},
    "GEN": {"brainstorm", "compose", "create", "describe", "design", "draft", "generate", "imagine", "invent", "make",
            "plan", "recommend", "suggest", "tell", "write"},
}  # fmt: skip
# An instruction with one of these words is of another kind, whatever its verb: "write a program", "write a proof".
OTHER_KINDS = frozenset({
    "bash", "bug", "calculate", "code", "convert", "css", "equation", "excel", "extract", "find", "function", "html",
    "java", "javascript", "json", "latex", "markdown", "math", "number", "program", "proof", "prove", "python", "query",
    "regex", "script", "solution", "solve", "sql", "translate", "translation", "verify",
})  # fmt: skip
CATEGORY_OF_DOLLY = {
    "classification": "CLS", "summarization": "SUM", "open_qa": "QA", "closed_qa": "QA", "general_qa": "QA",
    "creative_writing": "GEN", "brainstorming": "GEN",
}  # fmt: skip
# Parts of the names of tasks, of the FLAN Collection and of the task categories of Natural Instructions.
CATEGORY_OF_TASK = {
    "MATH": "aqua gsm8k svamp asdiv multiarith math_dataset mathematics arithmetic",
    "CODE": "text_to_code program_synthesis conala code_generation",
    "SUM": "cnn_dailymail xsum gigaword samsum multi_news newsroom aeslc ag_news_summ summarization title_generation",
    "CLS": "sst2 imdb sentiment140 yelp ag_news_subset ag_news dbpedia trec cola rte mnli qnli snli esnli creak anli "
           "paws qqp mrpc stsb wic sensemaking classification sentiment_analysis text_categorization "
           "textual_entailment toxic_language_detection spam",
    "QA": "natural_questions trivia_qa web_questions arc strategyqa ecqa qasc qed question_answering squad "
          "boolq openbookqa",
    "GEN": "common_gen e2e_nlg dart web_nlg story_composition poem_generation text_completion dialogue_generation",
}  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """One native format.

    Attributes:
      name: of the corpus, recorded as `source`.
      licence: of its rows, recorded as `licence`.
      recognises: whether a record is of this format.
      read: makes category, instruction, response and the fields of the checks of a record, given the file's name; None
        where the record is of no category.
    """

    name: str
    licence: str
    recognises: Callable[[Record], bool]
    read: Callable[[Record, str], Record | None]


def _human_eval(record: Record, file: str) -> Record:
    return {
        "category": "CODE",
        "instruction": record["prompt"],
        "response": record["prompt"].lstrip() + record["canonical_solution"],
        "check": f"{record['test']}\ncheck({record['entry_point']})",
    }


def _mbpp(record: Record, file: str) -> Record:
    tests = [record["test_setup_code"], *record["test_list"]]
    return {
        "category": "CODE",
        "instruction": f"{record['text']}\nYour code should pass this test: {record['test_list'][0]}",
        "response": record["code"],
        "check": "\n".join(tests).strip().replace("\r\n", "\n"),
    }


def _gsm8k(record: Record, file: str) -> Record:
    rationale, answer = re.sub(r"<<.*?>>", "", record["answer"]).rsplit("####", 1)
    return {
        "category": "MATH",
        "instruction": record["question"],
        "response": f"{rationale.strip()}\nThe answer is {answer.strip()}.",
    }


def _math500(record: Record, file: str) -> Record:
    return {"category": "MATH", "instruction": record["problem"], "response": record["solution"]}


def _cot(record: Record, file: str) -> Record | None:
    category = _task_category(file)
    answer = record["cot_answer"]
    response = f"{record['cot_rationale']}\nThe answer is {answer}." if category == "MATH" else answer
    return (
        None
        if category is None
        else {"category": category, "instruction": record["cot_question"], "response": response}
    )


def _flan(record: Record, file: str) -> Record | None:
    if "fs_" in str(record.get("template_type", record.get("_template_type", ""))):
        return None  # several solved examples before the task
    task = next((record[key] for key in ("task_name", "_task_name", "task") if record.get(key)), file)
    category = _task_category(str(task))
    return (
        None
        if category is None
        else {"category": category, "instruction": record["inputs"], "response": record["targets"]}
    )


def _trivia_qa(record: Record, file: str) -> Record:
    question = record.get("Question") or record["question"]
    answer = record.get("Answer") or record["answer"]
    return {"category": "QA", "instruction": question, "response": answer.get("Value") or answer["value"]}


def _nq_open(record: Record, file: str) -> Record:
    return {"category": "QA", "instruction": record["question"], "response": record["answer"][0]}


def _alpaca(record: Record, file: str) -> Record | None:
    category = _told_category(record["instruction"])
    text = _with_input(record["instruction"], record["input"])
    return None if category is None else {"category": category, "instruction": text, "response": record["output"]}


def _dolly(record: Record, file: str) -> Record | None:
    category = CATEGORY_OF_DOLLY.get(record["category"])
    text = _with_input(record["instruction"], record["context"])
    return None if category is None else {"category": category, "instruction": text, "response": record["response"]}


def _natural_instructions(record: Record, file: str) -> Record | None:
    definition = record["Definition"]
    names = record["Categories"] or [file]
    category = next(filter(None, (_task_category(name) for name in names)), None)
    text = definition if isinstance(definition, str) else "\n".join(definition)
    output = record["output"] if isinstance(record["output"], str) else record["output"][0]
    return (
        None
        if category is None
        else {"category": category, "instruction": f"{text}\n\n{record['input']}", "response": output}
    )


def _self_instruct(record: Record, file: str) -> Record | None:
    instance = record["instances"][0]
    category = "CLS" if record.get("is_classification") else _told_category(record["instruction"])
    text = _with_input(record["instruction"], instance["input"])
    return None if category is None else {"category": category, "instruction": text, "response": instance["output"]}


def _banking77(record: Record, file: str) -> Record:
    return _intent(record["text"], record["category"], record["intents"])


def _clinc150(record: Record, file: str) -> Record | None:
    return _intent(record["text"], record["intent"], record["intents"]) if record["intent"] != "oos" else None


def _intent(message: str, intent: str, intents: list[str]) -> Record:
    """Offers the intent among others; how many differs by message, so that not all rows are equally long."""
    seed = int.from_bytes(hashlib.sha256(message.encode()).digest()[:8], "big")
    random = np.random.default_rng(seed)
    others = [other for other in intents if other != intent]
    offered = min(INTENTS_OFFERED[seed % len(INTENTS_OFFERED)], len(others))
    chosen = [others[index] for index in random.choice(len(others), offered, replace=False)] + [intent]
    labels = [_readable(chosen[index]) for index in random.permutation(len(chosen))]
    return {
        "category": "CLS",
        "instruction": f"{message.strip()}\nIntent, one of: {', '.join(labels)}.",
        "response": _readable(intent),
        "labels": labels,
    }


def _scitldr(record: Record, file: str) -> Record:
    article = " ".join(sentence.strip() for sentence in record["source"])
    return {"category": "SUM", "instruction": f"Summarise in a sentence:\n\n{article}", "response": record["target"][0]}


def _article(article: str, summary: str) -> Callable[[Record, str], Record]:
    def read(record: Record, file: str) -> Record:
        text = f"Summarise this news report:\n\n{record[article].strip()}"
        return {"category": "SUM", "instruction": text, "response": record[summary]}

    return read


def _readable(intent: str) -> str:
    return intent.replace("_", " ").strip("? ").lower()


def _told_category(instruction: str) -> str | None:
    words = set(re.findall(r"[a-z]+", instruction.lower()))
    if OTHER_KINDS & words:
        return None
    return next((category for category, telling in TELLING_WORDS.items() if telling & words), None)


def _with_input(instruction: str, text: str | None) -> str:
    text = (text or "").strip()
    return instruction if text.lower() in EMPTY_INPUTS else f"{instruction.strip()}\n\n{text}"


def _task_category(name: str) -> str | None:
    """By the longest whole words that are known: `ag_news_summ` is not `ag_news`, `quarter` is not `rte`."""
    plain = f"_{re.sub(r'[^a-z0-9]+', '_', name.lower())}_"
    known = [(len(part), category) for category, parts in CATEGORY_OF_TASK.items() for part in parts.split()
             if f"_{part}_" in plain]  # fmt: skip
    return max(known)[1] if known else None


def _has(*fields: str) -> Callable[[Record], bool]:
    return lambda record: all(field in record for field in fields)


def _question_with(answer: type) -> Callable[[Record], bool]:
    def recognises(record: Record) -> bool:
        folded = {key.lower(): value for key, value in record.items()}
        found = folded.get("answer")
        return "question" in folded and isinstance(found, answer) and (not isinstance(found, str) or "####" in found)

    return recognises


# In this order; the first that recognises a file's first record reads the file.
CORPORA = (
    Corpus("human-eval", "MIT", _has("prompt", "canonical_solution", "test", "entry_point"), _human_eval),
    Corpus("mbpp", "CC-BY-4.0", _has("text", "code", "test_list"), _mbpp),
    Corpus("math-500", "MIT", _has("problem", "solution", "answer"), _math500),
    Corpus("flan-cot", "Apache-2.0", _has("cot_question"), _cot),
    Corpus("flan", "Apache-2.0", _has("inputs", "targets"), _flan),
    Corpus("trivia-qa", "Apache-2.0", _question_with(dict), _trivia_qa),
    Corpus("nq-open", "CC-BY-SA-3.0", _question_with(list), _nq_open),
    Corpus("gsm8k", "MIT", _question_with(str), _gsm8k),
    Corpus("dolly-15k", "CC-BY-SA-3.0", _has("instruction", "context", "response", "category"), _dolly),
    Corpus("alpaca", "CC-BY-NC-4.0", _has("instruction", "input", "output"), _alpaca),
    Corpus("natural-instructions", "Apache-2.0", _has("Definition", "input", "output"), _natural_instructions),
    Corpus("self-instruct", "Apache-2.0", _has("instruction", "instances"), _self_instruct),
    Corpus("clinc150", "CC-BY-3.0", _has("text", "intent", "intents"), _clinc150),
    Corpus("banking77", "CC-BY-4.0", _has("text", "category", "intents"), _banking77),
    Corpus("scitldr", "Apache-2.0", _has("source", "target"), _scitldr),
    Corpus("cnn-dailymail", "Apache-2.0", _has("article", "highlights"), _article("article", "highlights")),
    Corpus("xsum", "not stated", _has("document", "summary"), _article("document", "summary")),
)
