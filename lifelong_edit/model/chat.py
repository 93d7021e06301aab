"""Requests told in messages as texts: the prompt is what the tokenizer's own chat template makes of the messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, Message, TextRule
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens


def rendered(editable: EditableModel, request: EditRequest) -> EditRequest:
    """The request with a prompt: where messages stand for it, what the chat template makes of them.

    Raises `RequestError`, naming the request, as `chat_text` does, where the template does not keep the ``{}``, and for
    a model that is read by the rule of old stores: it would cut the header off in which the prompt ends.
    """
    if request.prompt:
        return request
    try:
        if editable.texts.rule is TextRule.stripped:
            raise RequestError("the store was made by a version without messages. Make a new one, or write the prompt.")
        return replace(request, prompt=chat_text(editable.tokenizer, request.messages))
    except RequestError as error:
        raise RequestError(f"request {request.resolved_id()!r}: {error}") from error


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text of a conversation up to where the model's answer begins.

    A BOS that the template writes is left out where the tokenizer puts one before every text by itself. Raises
    `RequestError` when there is no template, or it refuses the messages.
    """
    if not tokenizer.chat_template:
        raise RequestError(
            "the tokenizer has no chat template, so it makes no prompt of messages. Write the prompt as text, or put "
            "the model's chat_template.jinja into its folder."
        )
    conversation = [message._asdict() for message in messages]
    try:
        text = str(tokenizer.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))
    except Exception as error:  # a template is code of the model's folder, in a sandbox: it can fail in any way
        raise RequestError(
            f"the tokenizer's chat template does not take these messages: {error}. Some take no system message, and "
            "most want user and assistant by turns, the user first."
        ) from error
    twice = tokens(tokenizer, text)[0][:2] == [tokenizer.bos_token_id] * 2
    return text.removeprefix(str(tokenizer.bos_token)) if twice else text
