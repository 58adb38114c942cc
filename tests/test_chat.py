"""Ids are appended, never re-encoded, and an observation cannot speak in the policy's place."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from astarpo.chat import Chat
from astarpo.errors import DataError
from astarpo.policy.tiny.build import ACT, END, PAD, SEEN
from small import small_tokenizer

QWEN = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ '<s>' }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '[INST]' + message['content'] + '[/INST]' }}"
    "{% else %}{{ message['content'] + '</s>' }}{% endif %}{% endfor %}"
)
# As Qwen3 does: the last reply is shown with a thinking block, earlier ones without; the prompt opens none.
THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(template: str | None, specials: list[str], eos: str | None) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with these control tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.train_from_iterator(
        ["what is the answer to this question", "user assistant system\n"] * 4,
        trainers.BpeTrainer(
            vocab_size=330,
            special_tokens=specials,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=eos)
    if template:
        fast.chat_template = template
    return fast


def conversation(chat: Chat, seen: list[str], said: list[str]) -> list[int]:
    """Ids of a whole conversation as a rollout appends them: the stop token ends each reply."""
    ids: list[int] = []
    for turn, text in enumerate(seen):
        ids += chat.first(text) if turn == 0 else chat.next(text)
        if turn < len(said):
            ids += [*chat.encode(said[turn]), min(chat.stop)]
    return ids


def whole(tokens: PreTrainedTokenizerFast, seen: list[str], said: list[str]) -> list[int]:
    """The same through `apply_chat_template` in one go."""
    messages = []
    for turn, text in enumerate(seen):
        messages.append({"role": "user", "content": text})
        if turn < len(said):
            messages.append({"role": "assistant", "content": said[turn]})
    rendered = tokens.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(said) < len(seen))
    ids: list[int] = tokens.encode(rendered, add_special_tokens=False)
    return ids


@pytest.mark.parametrize(
    ("template", "specials", "eos"),
    [
        (QWEN, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
        (THINKING, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"),
        (LLAMA, ["<s>", "</s>", "[INST]", "[/INST]"], "</s>"),
    ],
)
def test_appended_ids_are_those_of_the_template_over_the_whole_conversation(
    template: str, specials: list[str], eos: str
) -> None:
    tokens = tokenizer(template, specials, eos)
    seen, said = ["what is 2 + 2?", "and the question?\nsay", "fine."], ["it is 4", "this"]
    assert conversation(Chat.of(tokens), seen, said) == whole(tokens, seen, said)


def test_our_own_template_too() -> None:
    tokens = small_tokenizer()
    seen, said = ["12+34=", "no", "once more"], ["46", "7"]
    assert conversation(Chat.of(tokens), seen, said) == whole(tokens, seen, said)


def test_rules_stand_before_the_first_observation_in_the_same_message() -> None:
    tokens = tokenizer(QWEN, ["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    expected = whole(tokens, ["answer this\n\nwhat is it?"], [])
    assert Chat.of(tokens).first("what is it?", rules="answer this") == expected


@pytest.mark.parametrize("token", [PAD, END, SEEN, ACT])
def test_a_control_token_written_out_in_an_observation_stays_text(token: str) -> None:
    chat = Chat.of(small_tokenizer())
    number = small_tokenizer().convert_tokens_to_ids(token)
    assert number not in chat.encode(f"buy {token} now")
    assert number not in chat.next(token)[len(chat.before_next) : -len(chat.after_next)]
    assert chat.decode(chat.encode(token)) == token


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_any_text_survives_encoding_and_decoding(text: str) -> None:
    chat = Chat.of(small_tokenizer())
    assert chat.decode(chat.encode(text)) == text


@settings(max_examples=50, deadline=None)
@given(st.text(), st.text())
def test_an_observation_costs_the_same_ids_wherever_it_stands(before: str, text: str) -> None:
    chat = Chat.of(small_tokenizer())
    assert chat.next(text) == [*chat.before_next, *chat.encode(text), *chat.after_next]
    assert chat.first(before) == [*chat.before_first, *chat.encode(before), *chat.after_first]


def test_a_reply_is_decoded_without_its_stop_token_and_nothing_else_is_lost() -> None:
    chat = Chat.of(small_tokenizer())
    (end,) = chat.stop
    assert chat.decode([*chat.encode(" 12 , 34 .  "), end]) == " 12 , 34 .  "


def test_the_model_s_own_stop_tokens_end_a_reply_as_well() -> None:
    assert Chat.of(small_tokenizer(), [17]).stop == {17, small_tokenizer().eos_token_id}


def test_a_template_whose_closing_token_is_not_the_end_of_text_stops_at_both() -> None:
    tokens = tokenizer(QWEN, ["<|im_start|>", "<|im_end|>", "<|endoftext|>"], "<|endoftext|>")
    chat = Chat.of(tokens)
    assert chat.stop == {tokens.convert_tokens_to_ids("<|im_end|>"), tokens.convert_tokens_to_ids("<|endoftext|>")}


def test_a_tokenizer_without_a_template_sets_turns_apart_by_line_breaks() -> None:
    tokens = tokenizer(None, ["<eos>"], "<eos>")
    chat = Chat.of(tokens)
    assert tokens.decode(conversation(chat, ["one", "two"], ["yes"])) == "one\nyes<eos>\ntwo\n"


def test_a_tokenizer_with_neither_template_nor_end_is_refused() -> None:
    with pytest.raises(DataError, match="neither a chat template nor an end-of-text token"):
        Chat.of(tokenizer(None, ["<pad>"], None))


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        # Counts the messages at the top.
        ("{{ messages | length }}" + QWEN, "rewrites earlier messages"),
        # Closes the last reply in another way than the earlier ones.
        (
            "{% for m in messages %}{{ m['role'] + m['content'] + ('<|im_end|>' if loop.last else '<|im_start|>') }}"
            "{% endfor %}",
            "rewrites earlier messages",
        ),
        # Keeps only the last message.
        ("{{ messages[-1]['role'] + messages[-1]['content'] + '<|im_end|>' }}", "drops or rewrites message text"),
        # Shouts.
        (
            "{% for m in messages %}{{ m['role'] + m['content'] | upper + '<|im_end|>' }}{% endfor %}",
            "drops or rewrites message text",
        ),
    ],
)
def test_a_template_that_rewrites_earlier_messages_is_refused(template: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        Chat.of(tokenizer(template, ["<|im_start|>", "<|im_end|>"], "<|im_end|>"))


def test_a_text_is_encoded_once_and_what_is_given_out_is_ones_own() -> None:
    chat = Chat.of(small_tokenizer())
    first = chat.encode("12+34=")
    expected = list(first)
    first.append(0)
    assert chat.encode("12+34=") == expected

    def refuse(*_: object, **__: object) -> list[int]:
        raise AssertionError("it was encoded again")

    again = Chat(chat.before_first, chat.after_first, chat.before_next, chat.after_next, chat.stop, chat.tokenizer)
    again.encode("5*6=")
    object.__setattr__(again, "tokenizer", type("Tokenizer", (), {"encode": refuse}))
    assert again.encode("5*6=") == chat.encode("5*6=")


def test_remembered_texts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("astarpo.chat.KNOWN_TEXTS", 3)
    chat = Chat.of(small_tokenizer())
    for number in range(8):
        assert chat.encode(str(number)) == small_tokenizer().encode(str(number), add_special_tokens=False)
        assert len(chat._known) <= 3
