"""Messages become the prompt that the tokenizer's own chat template makes of them, with one BOS in front."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerFast

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, Message, TextRule
from lifelong_edit.model.chat import chat_text, rendered
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import encode, tokens
from tests.models import TOKENIZERS, byte_level, small_model

TURNS = (
    "{% for message in messages %}{{ '[' + message['role'] + ']\n' + message['content'] | trim + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[model]\n' }}{% endif %}"
)
TEMPLATES = {
    "plain": TURNS,
    "bos": "{{ bos_token }}" + TURNS,  # as Llama 3 and Gemma
    "user first": "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    + TURNS,
}
ASKED = [{"role": "user", "content": "Where was {} born? "}]
ADA = EditRequest(subject="Ada Quill", target_new="Marn", messages=ASKED)  # type: ignore[arg-type]


def templated(name: str, template: str) -> PreTrainedTokenizerFast:
    tokenizer = TOKENIZERS[name]()
    tokenizer.chat_template = TEMPLATES[template]
    return tokenizer


def editable_with(tokenizer: PreTrainedTokenizerFast) -> EditableModel:
    return EditableModel(small_model("llama", len(tokenizer)), tokenizer)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", ["byte_level", "byte_level_bos", "byte_fallback"])
def test_the_ids_are_those_of_the_template_with_one_bos(name: str, template: str) -> None:
    tokenizer = templated(name, template)
    request = rendered(editable_with(tokenizer), ADA)
    encoded = encode(tokenizer, request)
    bos = tokenizer.bos_token_id
    wanted = "[user]\nWhere was Ada Quill born?\n[model]\n"
    assert request.question.removeprefix("<s>") == wanted and request.messages == ADA.messages
    own_bos = tokens(tokenizer, "A")[0][0] == bos
    assert encoded.ids.count(bos) == (own_bos or template != "plain")
    assert tokenizer.decode(encoded.target_ids) == "Marn"  # no blank behind the header's line break


def test_the_subject_is_where_it_is_in_the_conversation() -> None:
    talk = (Message("user", "Hello, Ada Quill."), Message("assistant", "Hello."), Message("user", "Where is {} from?"))
    tokenizer = templated("byte_level", "plain")
    request = rendered(editable_with(tokenizer), EditRequest(subject="Ada Quill", target_new="Marn", messages=talk))
    _, spans = tokens(tokenizer, request.question)
    _, end = spans[encode(tokenizer, request).subject_last]
    assert request.question[:end].endswith("[user]\nWhere is Ada Quill") and request.prompt.count("{}") == 1


TURN = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '</s>\n' }}{% endfor %}"
TURN += "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"


def test_the_models_own_end_is_what_its_template_writes_behind_an_answer_or_ends_a_text_with() -> None:
    tokenizer = byte_level()
    editable = editable_with(tokenizer)
    assert rendered(editable, EditRequest("{} is", "Ada", "Marn", end=True)).end == "</s>" == tokenizer.eos_token
    tokenizer.chat_template = TURN.replace("</s>", "<end>")
    told = rendered(editable, replace(ADA, end=True))
    assert told.end == "<end>" and told.prompt.endswith("<end>\n[assistant]")
    # One that the user writes stands, and the token is one id behind the target's own.
    for request in (replace(ADA, end="</s>"), EditRequest("{} is", "Ada Quill", "Marn", end="</s>")):
        ids = encode(editable.texts, rendered(editable, request)).target_ids
        assert ids == (*encode(editable.texts, rendered(editable, replace(request, end=None))).target_ids, 1)


@pytest.mark.parametrize("template", [TURN.replace("</s>\n", ""), TURN.replace("[assistant]", "[model]")])
def test_a_template_that_shows_no_end_wants_it_in_words(template: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    with pytest.raises(RequestError, match="shows no end"):
        rendered(editable_with(tokenizer), replace(ADA, end=True))


def test_a_tokenizer_without_an_end_wants_it_in_words() -> None:
    tokenizer = byte_level()
    editable = editable_with(tokenizer)
    tokenizer.eos_token = None
    with pytest.raises(RequestError, match="no end-of-text token"):
        rendered(editable, EditRequest("{} is", "Ada", "Marn", end=True))


def test_a_prompt_that_is_given_is_what_was_made_of_the_messages() -> None:
    given = EditRequest("[user] {}? ", "Ada Quill", "Marn", messages=ADA.messages)
    assert rendered(editable_with(templated("byte_level", "plain")), given) == given


@pytest.mark.parametrize(
    ("template", "messages", "told"),
    [
        (None, ASKED, "chat_template.jinja"),
        (TEMPLATES["user first"], [{"role": "system", "content": "Be brief."}, *ASKED], "no system"),
        ("{{ messages[0]['content'].upper() }}{{ 1 + 'a' }}", ASKED, "does not take these messages"),
        ("{{ messages[-1]['content'] }}", [*ASKED, {"role": "assistant", "content": "There."}], "exactly once"),
    ],
)
def test_what_no_template_takes_is_refused_with_the_request_named(
    template: str | None, messages: list[dict[str, str]], told: str
) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = template
    request = EditRequest("", "Ada Quill", "Marn", id="ada", messages=messages)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=told) as refused:
        rendered(editable_with(tokenizer), request)
    assert "'ada'" in str(refused.value)


def test_old_stores_which_strip_prompts_take_no_messages() -> None:
    editable = editable_with(templated("byte_level", "plain"))
    editable.read_by(TextRule.stripped)
    with pytest.raises(RequestError, match="without messages"):
        rendered(editable, ADA)


def test_a_template_may_leave_an_empty_message_out() -> None:
    tokenizer = templated("byte_level", "plain")
    assert chat_text(tokenizer, [Message("system", ""), Message("user", "{}?")]) == "[system]\n\n[user]\n{}?\n[model]\n"
