"""What the tokenizer makes of a request: messages become a prompt by its own chat template, and an end a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from lifelong_edit.errors import RequestError
from lifelong_edit.facts import EditRequest, Message, TextRule
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens


def rendered(editable: EditableModel, request: EditRequest) -> EditRequest:
    """The request with a prompt, what the chat template makes of its messages, and with an end that is a text.

    Raises `RequestError`, naming the request, as `chat_text` and `own_end` do, where the template does not keep the
    ``{}``, and for a model that is read by the rule of old stores: it would cut off the header that ends the prompt.
    """
    try:
        if not request.prompt and editable.texts.rule is TextRule.stripped:
            raise RequestError("the store was made by a version without messages. Make a new one, or write the prompt.")
        prompt = request.prompt or chat_text(editable.tokenizer, request.messages)
        end = own_end(editable.tokenizer, request.messages) if request.end is True else request.end
        return replace(request, prompt=prompt, end=end)
    except RequestError as error:
        raise RequestError(f"request {request.resolved_id()!r}: {error}") from error


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The text of a conversation up to where the model's answer begins.

    A BOS that the template writes is left out where the tokenizer puts one before every text by itself. Raises
    `RequestError` when there is no template, or it refuses the messages.
    """
    text = _told(tokenizer, messages, add_generation_prompt=True)
    twice = tokens(tokenizer, text)[0][:2] == [tokenizer.bos_token_id] * 2
    return text.removeprefix(str(tokenizer.bos_token)) if twice else text


def own_end(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """What ends an answer: in a conversation what the template writes behind it, else the end-of-text token.

    Raises `RequestError` where there is none.
    """
    if messages:
        header, answer = _told(tokenizer, messages, add_generation_prompt=True), Message("assistant", "Ada")
        _, found, behind = _told(tokenizer, [*messages, answer]).partition(header + answer.content)
        end = behind.strip()
        if not found or not end:
            raise RequestError("the chat template shows no end of an answer. Write the end itself, as a text.")
        return end
    if tokenizer.eos_token is None:
        raise RequestError("the tokenizer has no end-of-text token. Write the end itself, as a text.")
    return str(tokenizer.eos_token)


def _told(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
    """The template's text; `RequestError` when there is no template, or it fails."""
    if not tokenizer.chat_template:
        raise RequestError(
            "the tokenizer has no chat template, so it makes no prompt of messages. Write the prompt as text, or put "
            "the model's chat_template.jinja into its folder."
        )
    conversation = [message._asdict() for message in messages]
    try:
        return str(
            tokenizer.apply_chat_template(conversation, add_generation_prompt=add_generation_prompt, tokenize=False)
        )
    except Exception as error:  # a template is code of the model's folder, in a sandbox: it can fail in any way
        raise RequestError(
            f"the tokenizer's chat template does not take these messages: {error}. Some take no system message, and "
            "most want user and assistant by turns, the user first."
        ) from error
