"""`tune`: find the layers and settings that suit a model, and write them as a profile that `init` takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.text import counted, print_line, print_result, progress, table
from lifelong_edit.datasets.jsonl import load_requests, read_lines, read_texts
from lifelong_edit.defaults import METHOD
from lifelong_edit.outputs import new_file

if TYPE_CHECKING:
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.tuning.exam import Figures
    from lifelong_edit.tuning.material import Material
    from lifelong_edit.tuning.trials import Trial
    from lifelong_edit.tuning.tune import Found

HEADS = ("", "efficacy", "other words", "behind a sentence", "kept, prompts", "kept, text", "said", "kept", "score")


def tune(
    model: Annotated[Path, typer.Argument(envvar="LIFELONG_EDIT_MODEL", help=options.MODEL_HELP)],
    edits: Annotated[
        str, typer.Option(help="Requests (.jsonl) like those you will make; some are tried. Paraphrases are scored.")
    ],
    text: Annotated[Path, typer.Option(help="Generic UTF-8 text, paragraphs parted by empty lines.")],
    prompts: Annotated[
        Path | None, typer.Option(help="True statements of your domain, one a line; half are kept to be asked.")
    ] = None,
    work: Annotated[Path, typer.Option(help="Folder of the trials, where the same command goes on.")] = Path("tuning"),
    out: Annotated[Path | None, typer.Option(help="The profile; by default lifelong_edit.json in that folder.")] = None,
    picture: Annotated[
        Path | None, typer.Option(help="An HTML file that shows the front; needs the extra report.")
    ] = None,
    facts: Annotated[int, typer.Option(min=4, help="How many facts choose, and how many are reported.")] = 20,
    minutes: Annotated[float, typer.Option(min=0, help="Processor time after which no trial is begun.")] = 20.0,
    weight: Annotated[
        float, typer.Option(min=0, help="What a first choice that is lost counts against a form that is said.")
    ] = 3.0,
    tokens: Annotated[int, typer.Option(min=1, help="Of text, and of prompts, for second moments.")] = 50_000,
    profile: options.Profile = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides what is drawn at random.")] = 0,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Find layers and settings by trial edits of this model, and write them as a profile for init --profile.

    One half of the facts and prompts chooses; the other half, which nothing was chosen by, is reported. Trials are kept
    in --work, where the same command goes on. No profile is written when the reported half does not bear it out.

    Example: lifelong-edit tune checkpoints/smollm2 --edits edits.jsonl --text paragraphs.txt --prompts statements.txt
    """
    from lifelong_edit.editing.profile import PROFILE
    from lifelong_edit.model.chat import rendered
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.tuning.material import material
    from lifelong_edit.tuning.picture import PAGE, check_drawable, page
    from lifelong_edit.tuning.tune import Tuning

    requests, texts, statements = load_requests(edits), read_texts(text), [] if prompts is None else read_lines(prompts)
    check_drawable(picture)
    options.hide_loading_bars()
    editable = EditableModel.open(model, options.torch_dtype(dtype), device)
    parts = material([rendered(editable, request) for request in requests], texts, statements, seed, facts)
    start = _start(editable, model, profile, tokens, seed)
    with progress("token") as told, Tuning(work, editable, parts, start, weight, told) as tuning:
        if not as_json:
            print_line(_asked_text(parts))
        for trial in tuning.run(60 * minutes):
            if not as_json:
                print_line(_trial_line(trial, weight))
        found, trials = tuning.found(), tuning.trials.of("chosen")
    written = (out or work / PROFILE) if found.holds(weight) else None
    if written is not None:
        _write_profile(written, found, editable, parts)
    if picture is not None:
        _write(picture, PAGE, page(trials, weight, _told))
    document = {"found": _document(found), "trials": trials, "profile": written}
    print_result(as_json, document, _report(found, trials, weight, written))


def _write(path: Path, earlier: bytes, text: str) -> None:
    """Write a file, in place of one that begins alike and of nothing else."""
    with new_file(path, earlier) as file:
        file.write_text(text, encoding="utf-8")


def _asked_text(parts: Material) -> str:
    """What chooses and what is reported."""
    told = [
        f"{counted(len(exam.facts), 'fact')}, {counted(len(exam.prompts), 'prompt')} and "
        f"{counted(len(exam.passages), 'passage')} {use}"
        for exam, use in ((parts.chosen, "choose"), (parts.reported, "are reported and choose nothing"))
    ]
    return f"{'; '.join(told)}. To the editor: {counted(len(parts.text), 'paragraph')}, {len(parts.prompts)} prompts."


def _trial_line(trial: Trial, weight: float) -> str:
    """A trial in one line: its step, its best point, how long it took."""
    point = trial.best(weight)
    told = trial.refused if point is None else f"{_row('', point.figures, weight)[-1]} {_told(trial.settings(point))}"
    return f"{trial.exam:9} {trial.step.name:32} {told} ({trial.seconds:.0f} s)"


def _report(found: Found, trials: Sequence[Trial], weight: float, written: Path | None) -> str:
    """The front, start and best on facts that chose nothing, and what was written."""
    from lifelong_edit.tuning.front import front

    rows = [_row(_told(trial.settings(point)), point.figures, weight) for trial, point in front(trials)]
    reported = zip(("the start", "the best"), found.reported, strict=True)
    unseen = [_row(name, figures, weight) for name, figures in reported]
    ended = "no step from the best was left to try" if found.finished else "time was over, the same command goes on"
    kept = (
        f"{written} written: init --profile {written} takes it"
        if written
        else (
            "no profile written: the start is the best that was found"
            if found.best == found.start
            else "no profile written: on facts that nothing was chosen by, the best is no better than the start"
        )
    )
    return "\n".join(
        [
            f"The front of {counted(len(trials), 'trial')} ({ended}), by facts that settings were chosen by:",
            table(rows, HEADS),
            "",
            f"Start ({_told(found.start)}) and best ({_told(found.best)}), by facts that nothing was chosen by:",
            table(unseen, HEADS),
            "",
            f"{kept}.",
        ]
    )


def _row(name: str, figures: Figures, weight: float) -> list[str]:
    own = (figures.efficacy, figures.wording, figures.behind, figures.prompts, figures.text, figures.said, figures.kept)
    return [name, *("-" if value is None else f"{value:.3f}" for value in own), f"{figures.score(weight):.3f}"]


def _told(settings: EditorSettings) -> str:
    """What a search may change of settings, in a few words."""
    from lifelong_edit.tuning.search import FACTORS

    recipe, layers = settings.recipe, settings.layers
    run = str(layers[0]) if len(layers) == 1 else f"{layers[0]}-{layers[-1]}"
    named = {"ridge": settings.ridge} | {field: getattr(recipe, field, None) for field, _ in FACTORS}
    return ", ".join([f"layers {run}", *(f"{name} {value:g}" for name, value in named.items() if value is not None)])


def _document(found: Found) -> dict[str, Any]:
    """What was found, for --json."""
    pairs = {name: dict(zip(("start", "best"), getattr(found, name), strict=True)) for name in ("chosen", "reported")}
    settings = {name: getattr(found, name).to_dict() for name in ("start", "best")}
    return {"settings": settings, **pairs, "finished": found.finished}


def _write_profile(path: Path, found: Found, editable: EditableModel, parts: Material) -> None:
    """Write the best settings as a profile, with the shape of its model and what was reported of them."""
    from lifelong_edit.editing.profile import profile_text, shape_of

    start, best = (
        {name: round(value, 4) for name, value in asdict(own).items() if value is not None} for own in found.reported
    )
    asked = {"facts": len(parts.reported.facts), "prompts": len(parts.reported.prompts)}
    reported = {**asked, "start": start, "best": best}
    about = {**shape_of(editable), "found_by": "lifelong-edit tune", "reported": reported}
    _write(path, b"{", profile_text(found.best, about))


def _start(editable: EditableModel, model: Path, named: str | None, tokens: int, seed: int) -> EditorSettings:
    """What `init` would take, with nothing left open, but for how much text is read."""
    from lifelong_edit.editing.profile import profile_for
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.editing.statistics import StatisticsSettings
    from lifelong_edit.methods import method_named

    profile = profile_for(model, named)
    settings = EditorSettings(seed=seed, statistics=StatisticsSettings(tokens=tokens))
    if profile is not None:
        settings = profile.fitted(settings, editable)
    pinned = settings.pinned(editable)
    return replace(pinned, ridge=method_named(METHOD, pinned.ridge).relative_ridge)
