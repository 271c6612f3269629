"""What the model reads and which tokens count: templates and scopes, token by token."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import (
    OF_COUNTS,
    OF_MODEL,
    OF_SETTING,
    Limit,
    Reader,
    TokenizedSet,
    token_limit,
    tokenize_prompts,
    tokenize_responses,
)
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet

CHAT = (
    "{{ bos_token }}{% for message in messages %}<{{ message.role }}>\n{{ message.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
ROWS = [
    {"id": "a", "category": "X", "instruction": "Write a function.", "response": "def f(): pass"},
    {"id": "b", "category": "X", "instruction": "  The answer is:\n", "response": "one"},
]
SET = InstructionSet("rows", ROWS, ["X"])


@pytest.fixture
def tokenizer(llama: ModelDir) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(llama.path)
    tokenizer.chat_template = CHAT
    return tokenizer


def reader(tokenizer: Any, template: str, max_tokens: int, source: str = OF_MODEL) -> Reader:
    return Reader(tokenizer, make_template(template, tokenizer), 512, Limit(max_tokens, source))


def tokens(tokenizer: Any, template: str, scope: str = "prompt", max_tokens: int = 1000, truncate: bool = False,
           rows: InstructionSet = SET) -> TokenizedSet:  # fmt: skip
    return tokenize_prompts(rows, reader(tokenizer, template, max_tokens), scope=scope, truncate=truncate)


def read(tokenizer: Any, texts: TokenizedSet, row: int) -> str:
    return str(tokenizer.decode(texts.ids[row], clean_up_tokenization_spaces=False))


def counted(tokenizer: Any, texts: TokenizedSet, row: int) -> str:
    return str(tokenizer.decode(texts.ids[row][texts.counting(row)], clean_up_tokenization_spaces=False))


def test_without_a_template(tokenizer: Any) -> None:
    texts = tokens(tokenizer, "none")
    for row, one in enumerate(ROWS):
        assert texts.ids[row].tolist() == tokenizer(one["instruction"])["input_ids"]
        assert texts.counting(row).all()
    texts = tokens(tokenizer, "none", "instruction")
    assert texts.ids[0][0] == tokenizer.bos_token_id
    assert texts.counting(0).tolist() == [False] + [True] * (len(texts.ids[0]) - 1)
    assert [counted(tokenizer, texts, row) for row in (0, 1)] == [one["instruction"] for one in ROWS]


def test_the_plain_template(tokenizer: Any) -> None:
    texts = tokens(tokenizer, "plain", "instruction")
    assert read(tokenizer, texts, 0) == "<s>Instruction:\nWrite a function.\n\nResponse:\n"
    assert counted(tokenizer, texts, 0).strip() == "Write a function."
    assert counted(tokenizer, texts, 1).strip() == "The answer is:"
    assert tokens(tokenizer, "plain").counting(0).all()


def test_the_chat_template(tokenizer: Any) -> None:
    texts = tokens(tokenizer, "chat", "instruction")
    for row, one in enumerate(ROWS):
        turn = [{"role": "user", "content": one["instruction"]}]
        rendered = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        assert texts.ids[row].tolist() == rendered
        assert counted(tokenizer, texts, row).strip() == one["instruction"].strip()
    assert read(tokenizer, texts, 0) == "<s><user>\nWrite a function.</s>\n<assistant>\n"
    assert (texts.ids[0] == tokenizer.bos_token_id).sum() == 1


def test_every_token_of_the_words_and_no_other(tokenizer: Any) -> None:
    """By the text itself: tokens before the first character of the words, of them, and after the last."""
    for template in ("none", "plain", "chat"):
        texts = tokens(tokenizer, template, "instruction")
        for row, one in enumerate(ROWS):
            ids, counting = texts.ids[row], texts.counting(row)
            first, end = int(np.argmax(counting)), len(counting) - int(np.argmax(counting[::-1]))
            before, after = (tokenizer.decode(part) for part in (ids[:first], ids[end:]))
            whole = read(tokenizer, texts, row)
            words = one["instruction"] if template != "chat" else one["instruction"].strip()
            assert whole.startswith(before)
            assert whole.endswith(after)
            assert words in whole[len(before) : len(whole) - len(after)]
            assert words not in whole[: len(before)] + whole[len(whole) - len(after) :]


def test_begin_of_text_exactly_once(tokenizer: Any) -> None:
    tokenizer.chat_template = CHAT.replace("{{ bos_token }}", "")
    texts = tokens(tokenizer, "chat", "instruction")
    assert texts.ids[0][0] == tokenizer.bos_token_id
    assert (texts.ids[0] == tokenizer.bos_token_id).sum() == 1
    assert counted(tokenizer, texts, 0).strip() == "Write a function."


def test_responses_count_alone(tokenizer: Any) -> None:
    for template in ("none", "plain", "chat"):
        made = make_template(template, tokenizer)
        prompts = tokens(tokenizer, template)
        for end in (False, True):
            texts = tokenize_responses(SET, prompts, reader(tokenizer, template, 1000), end=end)
            for row, one in enumerate(ROWS):
                start = len(prompts.ids[row])
                assert texts.ids[row][:start].tolist() == prompts.ids[row].tolist()
                assert texts.counting(row).tolist() == [False] * start + [True] * (len(texts.ids[row]) - start)
                tail = made.separator + one["response"] + ("</s>" if end else "")
                assert counted(tokenizer, texts, row) == tail
                # The position before a counted one predicts it.
                assert texts.predicting(row).tolist() == [*texts.counting(row).tolist()[1:], False]


def test_the_last_of_the_counted_tokens(tokenizer: Any) -> None:
    texts = tokens(tokenizer, "chat", "instruction")
    last = texts.last(2)
    assert last.counted.tolist() == [2, 2]
    for row in (0, 1):
        assert np.flatnonzero(last.counting(row)).tolist() == np.flatnonzero(texts.counting(row)).tolist()[-2:]
    assert texts.last(0) is texts
    assert texts.last(1000).counted.tolist() == texts.counted.tolist()


def test_truncation_keeps_the_beginning(tokenizer: Any) -> None:
    full = tokens(tokenizer, "none", "instruction")
    cut = tokens(tokenizer, "none", "instruction", max_tokens=4, truncate=True)
    assert cut.ids[0].tolist() == full.ids[0][:4].tolist()
    assert cut.truncated == {row: len(full.ids[row]) for row in (0, 1)}
    assert cut.counted.tolist() == [3, 3]
    with pytest.raises(InputError, match=r"2 instructions are longer than 4 tokens, the model's limit: a \(\d+\), b"):
        tokens(tokenizer, "none", max_tokens=4)


@pytest.mark.parametrize(("asked", "positions", "expected"), [
    (0, 4096, (4096, OF_MODEL)), (4096, 4096, (4096, OF_MODEL)), (9999, 4096, (4096, OF_MODEL)),
    (512, 4096, (512, OF_SETTING)), (0, 131072, (65535, OF_COUNTS)), (99999, 131072, (65535, OF_COUNTS)),
    (70000, 70000, (65535, OF_COUNTS)), (65534, 131072, (65534, OF_SETTING)),
])  # fmt: skip
def test_which_limit_holds(asked: int, positions: int, expected: tuple[int, str]) -> None:
    assert token_limit(asked, positions, 65535) == expected


@pytest.mark.parametrize(("template", "limit", "remedy"), [
    ("none", OF_SETTING, "raise capture.max_tokens or set capture.truncate or leave them out"),
    ("chat", OF_SETTING, "raise capture.max_tokens or leave them out"),
    ("none", OF_MODEL, "set capture.truncate or leave them out"), ("chat", OF_COUNTS, "leave them out"),
])  # fmt: skip
def test_what_can_be_done_about_texts_that_are_too_long(template: str, limit: str, remedy: str, tokenizer: Any) -> None:
    with pytest.raises(InputError, match=rf"longer than 4 tokens, {limit}: a \(\d+\), b \(\d+\); {remedy}$"):
        tokenize_prompts(SET, reader(tokenizer, template, 4, limit))
    prompts = tokens(tokenizer, template)
    with pytest.raises(InputError, match=rf"prompt and response are longer than 9 tokens, {limit}: a \(\d+\)"):
        tokenize_responses(SET, prompts, reader(tokenizer, template, 9, limit), end=False)


@pytest.mark.parametrize(("chat", "message"), [
    (None, "the tokenizer has no chat template"),
    ("{{ messages[0].content }} {{ messages[0].content }}", "holds the user's turn 2 times, not once"),
    ("fixed", "holds the user's turn 0 times, not once"),
    ("{{ messages[0].content | trim | title }}!", "changes the user's words|0 times"),
    ("{{ raise_exception('no') }}", "the chat template fails: no"),
])  # fmt: skip
def test_unusable_chat_templates(chat: str | None, message: str, tokenizer: Any) -> None:
    tokenizer.chat_template = chat
    with pytest.raises(InputError, match=message):
        make_template("chat", tokenizer)


REWRITING = {
    "two newlines to one": ("{{ messages[0].content | replace('\n\n', '\n') }}", "One.\n\nTwo."),
    "HTML escapes": ("{{ messages[0].content | escape }}", "Is 1 < 2?"),
    "a cut": ("{{ messages[0].content[:500] }}", "long " * 101),
    "a split": ("{{ messages[0].content.split('</think>')[-1] }}", "What is </think> for?"),
    "another case of long ones": (
        "{% set c = messages[0].content %}{{ c | upper if c | length > 60 else c }}", "In sixty characters. " * 3,
    ),
    "space of its own kind": ("{{ messages[0].content | trim('\n ') }}", "\tIndented"),
    "one-sided for some": (
        "{% set c = messages[0].content %}{{ c.rstrip() if 'code' in c else c }}", "Write code. ",
    ),
    "a frame that depends on the words": (
        "{% if 'code' in messages[0].content %}Coder{% else %}Helper{% endif %}: {{ messages[0].content }}",
        "Write code.",
    ),
    "words that are said again": (
        "{{ messages[0].content }}{% if '?' in messages[0].content %} {{ messages[0].content }}{% endif %}", "Why?",
    ),
    "words that are left out": ("{% if '?' not in messages[0].content %}{{ messages[0].content }}{% endif %}", "Why?"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REWRITING)
@pytest.mark.parametrize("scope", ["prompt", "instruction"])
def test_a_row_that_the_chat_template_rewrites_is_named(kind: str, scope: str, tokenizer: Any) -> None:
    chat, instruction = REWRITING[kind]
    tokenizer.chat_template = f"<user>{chat}<assistant>"
    rows = InstructionSet("rows", [*ROWS, {"id": "bad", "category": "X", "instruction": instruction}], ["X"])
    with pytest.raises(InputError, match=r"^rows: 'bad': capture.template: the chat template changes these words, or"):
        tokens(tokenizer, "chat", scope, rows=rows)
    assert len(tokens(tokenizer, "chat", scope).ids) == 2


def test_a_row_that_the_chat_template_fails_on_is_named(tokenizer: Any) -> None:
    tokenizer.chat_template = "{% set c = messages[0].content %}{{ raise_exception('no code') if 'def' in c else c }}"
    rows = InstructionSet("rows", [*ROWS, {"id": "bad", "category": "X", "instruction": "def f"}], ["X"])
    with pytest.raises(InputError, match=r"^rows: 'bad': capture.template: the chat template fails: no code$"):
        tokens(tokenizer, "chat", rows=rows)


@pytest.mark.parametrize("instruction", ["user", "assistant", "<", "\n", "e", "</s>", "<user>\n", "<s><user>\nuser"])
def test_words_that_the_template_holds_too(instruction: str, tokenizer: Any) -> None:
    """Their place is where the template puts the words, not where the same letters stand first."""
    tokenizer.chat_template = CHAT.replace(" | trim", "")
    rows = InstructionSet("rows", [{"id": "a", "category": "X", "instruction": instruction}], ["X"])
    template = make_template("chat", tokenizer)
    turn = [{"role": "user", "content": instruction}]
    text, start, stop = template.render(instruction)
    assert text == tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert (start, text[start:stop]) == (len("<s><user>\n"), instruction)
    texts = tokens(tokenizer, "chat", "instruction", rows=rows)
    expected = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
    assert texts.ids[0].tolist() == expected
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert texts.counting(0).tolist() == [a < stop and b > start for a, b in offsets]


def test_unknown_template_and_slow_tokenizer(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=r"capture.template 'alpaca' is not known; known: none, plain, chat"):
        make_template("alpaca", tokenizer)
    with pytest.raises(InputError, match="needs a fast tokenizer"):
        tokens(SimpleNamespace(is_fast=False), "none", "instruction")


def test_nothing_to_count(tokenizer: Any) -> None:
    empty = InstructionSet("rows", [{"id": "a", "category": "X", "instruction": " "}], ["X"])
    with pytest.raises(InputError, match="rows: no tokens left of a"):
        tokens(tokenizer, "chat", "instruction", rows=empty)


def test_a_template_that_differs_has_another_digest(tokenizer: Any) -> None:
    chat = make_template("chat", tokenizer)
    tokenizer.chat_template = CHAT.replace("<assistant>", "<model>")
    digests = {chat.digest, make_template("chat", tokenizer).digest, make_template("plain", tokenizer).digest,
               make_template("none", tokenizer).digest}  # fmt: skip
    assert len(digests) == 4
