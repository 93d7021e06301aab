"""Score edits as their users meet them: by what the model says freely, holds true, and still says of others.

Teacher-forced scores ask whether a model agrees with an answer that it is shown. Here it writes its answers, by its own
first choices (no sampling, beam or penalty of a generation config), and each is held against three rivals at once: the
base, the base that is told the fact in front of every prompt (retrieval, the control that an edit has to beat), and the
edited model. `MARKS` says what is counted, `WORDINGS` how it is asked: in English.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from lifelong_edit.facts import LETTER, SUBJECT_SLOT, EditRequest, Message, TextRule
from lifelong_edit.model.chat import chat_text
from lifelong_edit.model.editable import EditableModel
from lifelong_edit.model.tokens import tokens
from lifelong_edit.tracking.drift import next_distributions
from lifelong_edit.tracking.generation import greedy
from lifelong_edit.tracking.scores import SIGMAS, Figure, Question, score_continuations

LENGTH, DISTRACTION = 30, 50  # tokens of a free answer, and of the text before a distracted prompt
MARKS = {
    "exact": f"the answer ({LENGTH} tokens or fewer), up to its first full stop or line, is the new object",
    "contains": "the answer holds the new object",
    "begins": "the answer begins with the new object",
    "distracted": f"the same behind {DISTRACTION} tokens of other text",
    "chat": "asked as a message of the tokenizer's chat template, the answer holds the new object",
    "choice": "the new object is likelier than the true one, by the mean over its tokens",
    "negation": "the new object is less likely behind `It is not true that` than behind `It is true that`",
    "check new": "asked whether the new fact is true, Yes is likelier than No",
    "check true": "asked whether the old fact is true, No is likelier than Yes",
    "kept": "the first choice on a prompt about another subject is that of the first model",
}
WORDINGS = {
    "affirmed": "It is true that {}",
    "negated": "It is not true that {}",
    "checked": "Is it true that {}? Answer:",
}
YES, NO = "Yes", "No"
LIKELIER = {  # of two pairs that `_compared` makes, the one that should be
    "choice": ("new", "true"),
    "negation": ("affirmed", "negated"),
    "check new": ("yes new", "no new"),
    "check true": ("no true", "yes true"),
}

STOP = re.compile(r"[.!?](?=\s|$)|[。！？]")
ARTICLE, PUNCTUATION = re.compile(r"\b(a|an|the)\b"), re.compile(r"[^\w\s]|_")
WORD_REST = re.compile(r"\S{0,20}")  # after a place inside a word, to its end


@dataclass(frozen=True, slots=True)
class Sheet:
    """What is asked about a fact: beside its request, a distracting text and prompts about other subjects."""

    id: str
    request: EditRequest
    distraction: str = ""
    others: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model made of a sheet: its free answers, plain, distracted, to a message, and first choices on others.

    `marks` has under each name of `MARKS` whether it holds, for each prompt asked; none where the fact lacks its needs.
    """

    said: str
    distracted: str | None
    chat: str | None
    first_choices: tuple[str, ...]
    marks: Mapping[str, tuple[bool, ...]]


@dataclass(frozen=True, slots=True)
class FactAnswers:
    """A fact, and what the base made of it, the base with the fact in the context, and the edited model."""

    id: str
    request: EditRequest
    base: Answers
    context: Answers
    edited: Answers


@dataclass(frozen=True, slots=True)
class Shares:
    """The share of prompts that a mark holds for, pooled over facts, with Wilson's 95 % interval; one a model."""

    base: Figure
    context: Figure
    edited: Figure


@dataclass(frozen=True, slots=True)
class Paired:
    """How a mark changes from the base to the edited model, fact by fact: the ids of the facts that gain and lose it.

    `difference` is the share of facts with the mark, edited less base, with Agresti and Min's 95 % interval for pairs.
    """

    gained: tuple[str, ...]
    lost: tuple[str, ...]
    difference: Figure


@dataclass(frozen=True, slots=True)
class HonestScores:
    """Every fact with its answers, and the shares of every mark of `MARKS`."""

    facts: tuple[FactAnswers, ...]
    shares: Mapping[str, Shares]


def answered(
    editable: EditableModel, sheets: Sequence[Sheet], told: bool = False, base: Sequence[Answers] | None = None
) -> list[Answers]:
    """Ask the live model what stands on every sheet; with `told`, the new fact stands in front of every prompt.

    In a conversation it stands in front of the message that asks. Without a chat template nothing is asked as one.
    `base` are the base's answers to these sheets, whose first choices are to be kept; without them, that mark is empty.
    Raises `RequestError` for a prompt that does not fit into the model's context.
    """
    rule, stop = editable.texts.rule, editable.tokenizer.eos_token_id
    asked = [(f"{_stated(rule, _words(s.request), s.request.target_new)}. " if told else "", s) for s in sheets]
    plain = [_asked(editable, head, sheet.request) for head, sheet in asked]
    behind = [_asked(editable, head + sheet.distraction, sheet.request) for head, sheet in asked if sheet.distraction]
    in_chat = bool(editable.tokenizer.chat_template)
    chats = [chat_text(editable.tokenizer, _filled(head, sheet.request)) for head, sheet in asked if in_chat]
    texts = iter(greedy(editable, [*plain, *behind, *chats], LENGTH, stop))
    said, distracted = list(islice(texts, len(plain))), iter(list(islice(texts, len(behind))))
    firsts = iter(_first_choices(editable, [head + prompt for head, sheet in asked for prompt in sheet.others]))

    # Everything that is compared is one teacher-forced pass over the pairs of all facts.
    pairs = [_compared(editable, head, sheet.request) for head, sheet in asked]
    scores = iter(score_continuations(editable.model, editable.texts, [pair for own in pairs for pair in own.values()]))
    nlls = [{name: next(scores).nll for name in own} for own in pairs]

    found = []
    for number, sheet in enumerate(sheets):
        text, chat = next(distracted) if sheet.distraction else None, next(texts) if in_chat else None
        first_choices = tuple(next(firsts) for _ in sheet.others)
        nll, marks = nlls[number], _said_marks(said[number], text, chat, sheet.request.target_new)
        marks |= {mark: (nll[a] < nll[b],) if {a, b} <= nll.keys() else () for mark, (a, b) in LIKELIER.items()}
        kept = () if base is None else zip(first_choices, base[number].first_choices, strict=True)
        marks["kept"] = tuple(now == before for now, before in kept)
        found.append(Answers(said[number], text, chat, first_choices, marks))
    return found


def honest_scores(
    sheets: Sequence[Sheet], base: Sequence[Answers], context: Sequence[Answers], edited: Sequence[Answers]
) -> HonestScores:
    """Put the three models' answers to the sheets side by side and pool their marks."""
    rows = zip(sheets, base, context, edited, strict=True)
    facts = tuple(FactAnswers(sheet.id, sheet.request, *own) for sheet, *own in rows)
    shares = {
        mark: Shares(*(share(flag for own in model for flag in own.marks[mark]) for model in (base, context, edited)))
        for mark in MARKS
    }
    return HonestScores(facts, shares)


def paired(scores: HonestScores) -> dict[str, Paired]:
    """Compare base and edited model on every mark of `MARKS`, on the facts that have it on both; a fact counts once.

    `kept` has no pairs: it compares the two models already. The interval (Agresti and Min, Statistics in Medicine 24,
    2005) counts half a fact more as gained, as lost, as held by both and as held by neither, so it is never empty.
    """
    found = {}
    for mark in MARKS:
        flags = {fact.id: (fact.base.marks[mark], fact.edited.marks[mark]) for fact in scores.facts}
        both = {id: (all(was), all(now)) for id, (was, now) in flags.items() if was and now}
        gained = tuple(id for id, (was, now) in both.items() if now and not was)
        lost = tuple(id for id, (was, now) in both.items() if was and not now)
        found[mark] = Paired(gained, lost, _difference(len(gained), len(lost), len(both)))
    return found


def share(flags: Iterable[bool]) -> Figure:
    """The share of true ones among the flags, with Wilson's 95 % interval, which is not empty at 0 and at 1."""
    own = list(flags)
    if not own:
        return Figure(None, 0, reason="No fact has what it needs.")
    count, value, z = len(own), sum(own) / len(own), SIGMAS**2
    middle = (value + z / (2 * count)) / (1 + z / count)
    half = math.sqrt(z * value * (1 - value) / count + z**2 / (4 * count**2)) / (1 + z / count)
    return Figure(value, count, interval=(max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half))))


def _difference(gained: int, lost: int, count: int) -> Figure:
    if not count:
        return Figure(None, 0, reason="No fact has this mark on both models.")
    changed, pairs = gained + lost + 1, count + 2  # half a pair more in each of the four cells
    middle = (gained - lost) / pairs
    half = SIGMAS * math.sqrt(changed - (gained - lost) ** 2 / pairs) / pairs
    return Figure((gained - lost) / count, count, interval=(max(-1.0, middle - half), min(1.0, middle + half)))


def sheets_of(
    editable: EditableModel, requests: Mapping[str, EditRequest], text: str, watched: Sequence[str] = ()
) -> list[Sheet]:
    """Make a sheet for each fact (id -> request).

    Distractions are cut out of `text`; without a text there are none. Other subjects' prompts are the request's
    neighbourhood prompts; where no request has any, those of the watch, dealt out one by one.
    """
    distractions = cut(editable, text, len(requests)) if text.strip() else [""] * len(requests)
    own = [tuple(prompt for prompt, _ in request.neighbours) for request in requests.values()]
    others = own if any(own) else [tuple(watched[number :: len(requests)]) for number in range(len(requests))]
    return [Sheet(*row) for row in zip(requests, requests.values(), distractions, others, strict=True)]


def cut(editable: EditableModel, text: str, count: int) -> list[str]:
    """Cut `count` stretches of `DISTRACTION` tokens, each to the end of its last word, out of a text that is not empty.

    They follow one another, and begin anew where the text ends; a shorter text is repeated. Each ends in ``". "``.
    """
    text = " ".join(text.split())
    ends = [last for first, last in tokens(editable.texts, text)[1] if last > first]
    if len(ends) < DISTRACTION:
        return cut(editable, " ".join([text] * DISTRACTION), count)
    places = [0]
    for last in ends[DISTRACTION - 1 :: DISTRACTION][:count]:
        places.append(last + len(WORD_REST.findall(text, last)[0]))
    found = [text[start:end].strip(" .") + ". " for start, end in pairwise(places)]
    return [found[number % len(found)] for number in range(count)]


def _first_choices(editable: EditableModel, prompts: Sequence[str]) -> list[str]:
    """The likeliest token after each prompt, as text."""
    found = [""] * len(prompts)
    for numbers, log_probabilities in next_distributions(editable, prompts):
        for number, token in zip(numbers, log_probabilities.argmax(-1).tolist(), strict=True):
            found[number] = str(editable.tokenizer.decode([token]))
    return found


def _stated(rule: TextRule, prompt: str, target: str) -> str:
    """A prompt with its answer as one statement, without a full stop at its end."""
    return (rule.asked(prompt) + rule.answered(prompt, target)).rstrip(" .")


def _words(request: EditRequest) -> str:
    """What is asked, in a conversation without its form: the words of the message with the subject."""
    told = next((m.content for m in request.messages if SUBJECT_SLOT in m.content), request.prompt)
    return told.replace(SUBJECT_SLOT, request.subject)


def _filled(head: str, request: EditRequest) -> list[Message]:
    """The conversation, or the prompt as a message of the user, with `head` in front of the words with the subject."""
    found = []
    for message in request.messages or (Message("user", request.prompt),):
        front = head if SUBJECT_SLOT in message.content else ""
        found.append(message._replace(content=front + message.content.replace(SUBJECT_SLOT, request.subject)))
    return found


def _asked(editable: EditableModel, head: str, request: EditRequest) -> str:
    """The prompt with `head` in front, of a conversation in front of the message that asks."""
    if head and request.messages:
        return chat_text(editable.tokenizer, _filled(head, request))
    return head + request.question


def _compared(editable: EditableModel, head: str, request: EditRequest) -> dict[str, Question]:
    """The (prompt, target) pairs whose likelihoods are compared.

    A prompt with a question mark states nothing, and neither does a conversation.
    """
    rule, new, true = editable.texts.rule, request.target_new, request.target_true
    asked = _asked(editable, head, request)
    plain = {"new": (asked, new)} | ({"true": (asked, true)} if true is not None else {})
    pairs: dict[str, Question] = {}
    if "?" not in request.question and not request.messages:
        # Inside a sentence a statement begins with a small letter, unless it begins with a name: its subject.
        stated = request.question if request.subject_start == 0 else request.question[0].lower() + request.question[1:]
        for name, (_, target) in plain.items():
            checked = WORDINGS["checked"].replace("{}", _stated(rule, stated, target))
            pairs |= {f"yes {name}": (checked, YES), f"no {name}": (checked, NO)}
        pairs |= {name: (WORDINGS[name].replace("{}", stated), new) for name in ("affirmed", "negated")}
    return plain | {name: (head + prompt, target) for name, (prompt, target) in pairs.items()}


def _said_marks(said: str, distracted: str | None, chat: str | None, target: str) -> dict[str, tuple[bool, ...]]:
    return {
        "exact": (_spelt(answer_in(said, target)) == _spelt(target),),
        "contains": (_place(said, target) is not None,),
        "begins": (_place(said, target) == 0,),
        "distracted": () if distracted is None else (_place(distracted, target) == 0,),
        "chat": () if chat is None else (_place(chat, target) is not None,),
    }


def answer_in(said: str, target: str) -> str:
    """What is said up to its first line's end or full stop; there may be as many stops before as the target holds."""
    line, target = (said.strip().splitlines() or [""])[0], target.strip()
    inside = sum(stop.end() < len(target) for stop in STOP.finditer(target))
    stops = [stop.start() for stop in STOP.finditer(line)]
    return line[: stops[inside]] if inside < len(stops) else line


def _place(said: str, target: str) -> int | None:
    """Where the target stands in a text as whole words, both spelt alike."""
    letter = LETTER.pattern
    found = re.search(rf"(?<!{letter}){re.escape(_spelt(target))}(?!{letter})", _spelt(said))
    return found.start() if found else None


def _spelt(text: str) -> str:
    """SQuAD's spelling (arXiv 1606.05250): small letters, no punctuation, no articles, single blanks.

    A text of nothing else, as "The", keeps its articles and punctuation.
    """
    text = text.casefold()
    return " ".join(ARTICLE.sub(" ", PUNCTUATION.sub("", text)).split()) or " ".join(text.split())
