"""A row of every format, written by hand from its list of fields, with the requests that it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lifelong_edit.facts import EditRequest, Message


@dataclass(frozen=True)
class Specimen:
    """A row, the request of each edit in it, and what must be chosen to read it."""

    row: dict[str, Any]
    requests: tuple[EditRequest, ...]
    targets: str | None = None
    relation: str | None = None


COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 70,
    "requested_rewrite": {
        "prompt": "The mother tongue of {} is",
        "relation_id": "P103",
        "target_new": {"str": " Veltish", "id": "Q1"},
        "target_true": {"str": "Oranian", "id": "Q2"},
        "subject": "Ada Quill",
    },
    "paraphrase_prompts": ["The river rose.\n\nAda Quill speaks"],
    "neighborhood_prompts": ["The mother tongue of Bo Lund is"],
    "attribute_prompts": ["The mother tongue of Émile Zorn is"],
    "generation_prompts": ["Ada Quill was born in"],
}
ZSRE = {
    "subject": "Norvik",
    "src": "Where does Norvik have its seat?",
    "pred": "Kessel",
    "rephrase": "In which town does Norvik have its seat?",
    "alt": "Tarsis",
    "answers": ["Oran", "Oran town"],
    "loc": "nq question: who wrote the song of the Ösel",
    "loc_ans": "Ana Díaz",
    "cond": "Kessel >> Tarsis || Where does Norvik have its seat?",
}
ZSRE_PROMPT = "Where does {} have its seat?"
ZSRE_TEXTS: dict[str, Any] = {
    "paraphrase_prompts": ("In which town does Norvik have its seat?",),
    "attribute_prompts": (("nq question: who wrote the song of the Ösel?", "Ana Díaz"),),
}


def _counterfact(id: str) -> EditRequest:
    return EditRequest(
        "The mother tongue of {} is",
        "Ada Quill",
        "Veltish",
        "Oranian",
        id,
        ("The river rose.\n\nAda Quill speaks",),
        ("The mother tongue of Bo Lund is",),
        (("The mother tongue of Émile Zorn is", "Veltish"),),
        ("Ada Quill was born in",),
    )


def _mquake_edit(subject: str, target: str) -> dict[str, Any]:
    return {
        "prompt": "{} is a citizen of",
        "relation_id": "P27",
        "target_new": {"str": target, "id": "Q3"},
        "target_true": {"str": "Marn", "id": "Q4"},
        "subject": subject,
        "question": f"Of what country is {subject} a citizen?",
    }


def _mquake_request(subject: str, target: str, id: str) -> EditRequest:
    asked = (f"Of what country is {subject} a citizen?",)
    return EditRequest("{} is a citizen of", subject, target, "Marn", id, asked)


RIPPLE_QUERY = {
    "prompt": "The name of the country of citizenship of A. Quill is",
    "answers": [{"value": "Oran", "aliases": ["Republic of Oran"]}],
    "query_type": "regular",
    "subject_id": "Q5",
    "relation": "COUNTRY_OF_CITIZENSHIP",
    "target_ids": ["Q6"],
    "phrase": None,
}
SPECIMENS = {
    "counterfact": Specimen(COUNTERFACT, (_counterfact("counterfact-7"),), relation="P103"),
    "mcf": Specimen(COUNTERFACT, (_counterfact("mcf-7"),), relation="P103"),
    "counterfact-easyedit": Specimen(
        {
            "case_id": 8,
            "prompt": "Ada Quill lives in",
            "target_new": "Marn",
            "subject": "Ada Quill",
            "ground_truth": "Oran",
            "rephrase_prompt": "The home of Ada Quill is",
            "locality_prompt": "Bo Lund lives in",
            "locality_ground_truth": "Oran",
        },
        (
            EditRequest(
                "{} lives in",
                "Ada Quill",
                "Marn",
                "Oran",
                "counterfact-8",
                ("The home of Ada Quill is",),
                ("Bo Lund lives in",),
            ),
        ),
    ),
    "zsre alt": Specimen(ZSRE, (EditRequest(ZSRE_PROMPT, "Norvik", "Tarsis", "Oran", **ZSRE_TEXTS),), "alt"),
    "zsre answers": Specimen(ZSRE, (EditRequest(ZSRE_PROMPT, "Norvik", "Oran", **ZSRE_TEXTS),), "answers"),
    "zsre-ultraedit": Specimen(
        {**{name: ZSRE[name] for name in ("src", "subject", "rephrase", "loc", "loc_ans")}, "ans": "Tarsis"},
        (EditRequest(ZSRE_PROMPT, "Norvik", "Tarsis", **ZSRE_TEXTS),),
    ),
    "mquake": Specimen(
        {
            "case_id": 3,
            "requested_rewrite": [_mquake_edit("Ada Quill", "Oran"), _mquake_edit("Bo Lund", "Tarsis")],
            "questions": ["Where is the friend of Ada Quill a citizen?"] * 3,
            "answer": "Marn",
            "answer_alias": [],
            "new_answer": "Tarsis",
            "new_answer_alias": ["Tarsis land"],
            "single_hops": [],
            "new_single_hops": [],
            "orig": {"triples": []},
        },
        (
            _mquake_request("Ada Quill", "Oran", "mquake-3-1"),
            _mquake_request("Bo Lund", "Tarsis", "mquake-3-2"),
        ),
        relation="P27",
    ),
    "knowedit": Specimen(
        {
            "subject": "Kessel",
            "prompt": "The mayor of Kessel is",
            "target_new": "Ana Díaz",
            "ground_truth": [["Bo Lund", "B. Lund"]],
            "rephrase": "Who is mayor in Kessel?",
            "portability": {"Reasoning": [{"prompt": "The mayor's home is", "ground_truth": [["Oran"]]}]},
            "locality": {
                "Relation_Specificity": [{"prompt": "Kessel lies in", "ground_truth": [["Marn", "the land of Marn"]]}],
                "Forgetfulness": [{"prompt": "A former mayor of Kessel was", "ground_truth": []}],
            },
        },
        (
            EditRequest(
                "The mayor of {} is",
                "Kessel",
                "Ana Díaz",
                "Bo Lund",
                paraphrase_prompts=("Who is mayor in Kessel?",),
                attribute_prompts=(("Kessel lies in", "Marn"),),
            ),
        ),
    ),
    "knowedit-wikibio": Specimen(
        {
            "concept": "ada quill",
            "text": "This is a passage about ada quill.",
            "labels": "Ada Quill (1801) was a poet of Marn.",
            "locality": {"Relation_Specificity": [{"prompt": "Oran is", "ground_truth": ["a town"]}]},
        },
        (
            EditRequest(
                "This is a passage about {}.",
                "ada quill",
                "Ada Quill (1801) was a poet of Marn.",
                attribute_prompts=(("Oran is", "a town"),),
            ),
        ),
    ),
    "wikibigedit": Specimen(
        {
            "tag": "new",
            "subject": "Bo Lund",
            "update": "What does Bo Lund's work deal with?",
            "rephrase": "With what does the work of Bo Lund deal?",
            "personas": "Hey, what's Bo Lund's work about?",
            "ans": "rivers",
            "loc": "What is the capital of Marn?",
            "loc_ans": "Tarsis",
            "mhop": None,
            "mhop_ans": None,
        },
        (
            EditRequest(
                "What does {}'s work deal with?",
                "Bo Lund",
                "rivers",
                paraphrase_prompts=("With what does the work of Bo Lund deal?", "Hey, what's Bo Lund's work about?"),
                attribute_prompts=(("What is the capital of Marn?", "Tarsis"),),
            ),
        ),
    ),
    "ultraeditbench": Specimen(
        {
            "case_id": 12,
            "prompt": "What is the river of Oran?",
            "subject": "Oran",
            "ans": "Ösel",
            "rephrase_prompt": "Which river does Oran lie at?",
            "loc": "What is the sea of Marn?",
            "loc_ans": "the Veltish sea",
        },
        (
            EditRequest(
                "What is the river of {}?",
                "Oran",
                "Ösel",
                id="ultraeditbench-12",
                paraphrase_prompts=("Which river does Oran lie at?",),
                attribute_prompts=(("What is the sea of Marn?", "the Veltish sea"),),
            ),
        ),
    ),
    "rippleedits": Specimen(
        {
            "example_type": "popular",
            "edit": {
                "prompt": "The name of the country of citizenship of Ada Quill is Oran.",
                "subject": "Ada Quill",
                "subject_id": "Q5",
                "relation": "COUNTRY_OF_CITIZENSHIP",
                "target_id": "Q6",
                "original_fact": {"prompt": "The name of the country of citizenship of Ada Quill is Marn."},
            },
            "Relation_Specifity": [
                {
                    "test_queries": [
                        {**RIPPLE_QUERY, "prompt": "The mother of Ada Quill is", "answers": [{"value": "Ana"}]}
                        | {"target_ids": ["Q7"]}
                    ],
                    "test_condition": "OR",
                    "condition_queries": [],
                }
            ],
            "Subject_Aliasing": [
                {"test_queries": [RIPPLE_QUERY], "test_condition": "OR", "condition_queries": []},
            ],
        },
        (
            EditRequest(
                "The name of the country of citizenship of {} is",
                "Ada Quill",
                "Oran",
                "Marn",
                attribute_prompts=(("The mother of Ada Quill is", "Ana"),),
            ),
        ),
        relation="COUNTRY_OF_CITIZENSHIP",
    ),
    "fastedit": Specimen(
        {"prompt": "The mayor of {} is", "subject": "Oran", "target": "Bo Lund", "queries": ["Oran's mayor is"]},
        (EditRequest("The mayor of {} is", "Oran", "Bo Lund", paraphrase_prompts=("Oran's mayor is",)),),
    ),
    "plain": Specimen(
        {
            "prompt": "{} lives in",
            "subject": "Ada",
            "target_new": "Oran",
            "id": "a",
            "attribute_prompts": [["Ada", "x"]],
            "wordings": ["Ada dwells in", "the home of {} is", ""],
            "relation_id": "P551",
        },
        (
            EditRequest(
                "{} lives in",
                "Ada",
                "Oran",
                id="a",
                attribute_prompts=(("Ada", "x"),),
                wordings=("{} dwells in", "the home of {} is"),
            ),
        ),
        relation="P551",
    ),
    "plain messages": Specimen(
        {
            "messages": [{"role": "user", "content": "Where is {}?"}],
            "subject": "Ada",
            "target_new": "Oran",
            "end": True,
        },
        (EditRequest(subject="Ada", target_new="Oran", messages=(Message("user", "Where is {}?"),), end=True),),
    ),
}
