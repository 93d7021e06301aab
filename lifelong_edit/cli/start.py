"""Panel Start: `init` makes a store, `stats` collects the second moments that it needs, `demo` shows one at work."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lifelong_edit.cli import options
from lifelong_edit.cli.text import (
    SHORT,
    counted,
    entry_document,
    init_lines,
    listed,
    print_result,
    progress,
    summary,
    table,
)
from lifelong_edit.datasets.jsonl import read_lines, read_text
from lifelong_edit.defaults import METHOD
from lifelong_edit.errors import RequestError
from lifelong_edit.escapes import printable
from lifelong_edit.outputs import new_file

if TYPE_CHECKING:
    from lifelong_edit.editing.settings import EditorSettings
    from lifelong_edit.tracking.watch import Watch

TEXT_HELP = "Generic UTF-8 text to take second moments from, paragraphs parted by empty lines."
WATCH_HELP = 'What edits are to leave alone, as JSON: {"facts": [[prompt, answer], ...], "texts": [...]}.'
PROMPTS_HELP = "True statements of your domain, one a line: edits are to spare what is said like them."
Layers = Annotated[list[int] | None, typer.Option("--layer", help="A layer to edit; repeat it for several.")]


def init(
    model: options.Model,
    store: options.StorePath = options.STORE,
    text: Annotated[Path | None, typer.Option(help=TEXT_HELP)] = None,
    layer: Layers = None,
    method: options.Method = METHOD,
    memory: Annotated[str | None, typer.Option(help="joint (all facts as one system) or batch.")] = None,
    targets: Annotated[str | None, typer.Option(help="base (optimise on the unedited model) or live.")] = None,
    contexts: Annotated[int | None, typer.Option(help="How many prefixes edits are made to hold behind.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides everything that is drawn at random.")] = None,
    norm_limit: Annotated[
        float | None, typer.Option(help="How far a fact may move an edited weight, relative to its norm.")
    ] = None,
    watch: Annotated[Path | None, typer.Option(help=WATCH_HELP)] = None,
    prompts: Annotated[Path | None, typer.Option(help=PROMPTS_HELP)] = None,
    prompt_share: Annotated[
        float | None, typer.Option(help="What share of the second moments they make up; by default .5.")
    ] = None,
    profile: options.Profile = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check model, choices and text; make nothing.")] = False,
    actor: options.Actor = None,
    reason: options.Reason = None,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Make a store for a model. What is chosen here holds for its life; the defaults were chosen by measurement.

    Second moments C come from --text, or lie beside the model (see stats); --prompts have their share in both. An
    interrupted init goes on where it was.

    Example: lifelong-edit init --model checkpoints/tiny-world --store store
    """
    from lifelong_edit.engine import LifelongEditor

    choices: dict[str, Any] = {
        "layers": layer or None,
        "memory": memory,
        "targets": targets,
        "contexts": contexts,
        "seed": seed,
        "norm_limit": norm_limit,
        "prompt_share": prompt_share,
    }
    settings, watched = _settings(choices), None if watch is None else read_watch(watch)
    stated = None if prompts is None else read_lines(prompts)
    if dry_run:
        return _preview_init(model, store, settings, profile, text, watched, stated, dtype, device, as_json)
    texts, number = _texts(text), options.torch_dtype(dtype)
    options.hide_loading_bars()
    with (
        progress("token") as told,
        LifelongEditor.create(
            store, model, settings, texts, actor, reason, told, number, device, watched, method=method, prompts=stated,
            profile=profile,
        ) as made,
    ):  # fmt: skip
        unasked = [] if stated else ["what the base knows is not measured: no --prompts"]
        about = "\n".join([*init_lines(made.head), *unasked, f"head {made.head.digest}"])
        print_result(as_json, entry_document(made.head, {}), f"{store}: {summary(made.head)}\n{about}")


def stats(
    model: options.Model,
    text: Annotated[Path | None, typer.Option(help=f"{TEXT_HELP} Without it, what lies there is shown.")] = None,
    layer: Layers = None,
    to: Annotated[Path | None, typer.Option(help="A folder other than the model's to write to or look into.")] = None,
    tokens: Annotated[int | None, typer.Option(min=1, help="Stop after so many tokens; by default 200,000.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be collected; write nothing.")] = False,
    dtype: options.Number = None,
    device: options.Device = options.CPU,
    as_json: options.Json = False,
) -> None:
    """Collect second moments from text into the model's folder, where init finds them; or show those that are there.

    An interrupted collection goes on where it was, by the same command.

    Example: lifelong-edit stats --model checkpoints/tiny-world
    """
    from lifelong_edit.editing.profile import suited
    from lifelong_edit.editing.second_moments import beside_model, collected_moments
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.model.fingerprint import fingerprint

    options.hide_loading_bars()
    editable, folder = EditableModel.open(model, options.torch_dtype(dtype), device), to or model
    base = fingerprint(editable)
    if text is None:
        return _show(folder, base, as_json)
    settings = suited(_settings({"layers": layer or None}), model)
    layers = settings.resolved(editable)
    wanted = settings.statistics if tokens is None else replace(settings.statistics, tokens=tokens)
    paths, texts = [beside_model(folder, number) for number in layers], _texts(text) or []
    if not dry_run:
        with ExitStack() as outputs, progress("token") as told:
            written = [outputs.enter_context(new_file(path, earlier=b"")) for path in paths]
            (files,) = collected_moments(editable, base, layers, [texts], wanted, paths[0].parent, told)
            for number, file in zip(layers, written, strict=True):
                file.write_bytes(files[number])
    document = {"dry_run": dry_run, "files": paths, "texts": len(texts), "tokens": wanted.tokens}
    done = f"{'would be ' if dry_run else ''}written, from up to {wanted.tokens} tokens of {text}"
    print_result(as_json, document, f"{listed([str(path) for path in paths])} {done}")


def demo(
    model: Annotated[Path, typer.Option(help="Folder of the bundled model.")] = Path("checkpoints/tiny-world"),
    stores: Annotated[Path, typer.Option(help="Where the demo's stores are made.")] = Path("checkpoints"),
    quick: Annotated[bool, typer.Option("--quick", help="60 edits instead of 300, and a shorter exam.")] = False,
    seed: Annotated[int, typer.Option(help="Which people are edited, and how.")] = 0,
    as_json: options.Json = False,
) -> None:
    """Stream edits into the bundled model, show what was kept, forgotten and disturbed, and take one edit back.

    Example: lifelong-edit demo --quick
    """
    from lifelong_edit.cli.demo import run

    run(model, stores, quick, seed, as_json)


def read_watch(path: Path) -> Watch:
    """Read the facts and texts to watch from a JSON file; `RequestError` when it holds something else."""
    from lifelong_edit.tracking.watch import Watch

    try:
        values: Any = json.loads(read_text(path))
        if not isinstance(values, dict) or not values or set(values) - {"facts", "texts"}:
            raise ValueError("it has other fields than facts and texts")
        return Watch(tuple((prompt, answer) for prompt, answer in values.get("facts", ())), values.get("texts", ()))
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        raise RequestError(f"{path} names nothing to watch: {error}. Write {WATCH_HELP[32:]}") from error


def _settings(choices: dict[str, Any]) -> EditorSettings:
    """What is chosen; the rest is left open."""
    from lifelong_edit.editing.settings import EditorSettings

    return EditorSettings(**{name: value for name, value in choices.items() if value is not None})


def _texts(path: Path | None) -> Sequence[str] | None:
    from lifelong_edit.datasets.jsonl import read_texts

    return None if path is None else read_texts(path)


def _preview_init(
    model: Path,
    store: Path,
    settings: EditorSettings,
    named: str | None,
    text: Path | None,
    watch: Watch | None,
    prompts: Sequence[str] | None,
    dtype: options.Dtype | None,
    device: str,
    as_json: bool,
) -> None:
    """Check model, settings, text and watch as `init` does, and print what it would make."""
    from lifelong_edit.editing.profile import profile_for
    from lifelong_edit.editing.second_moments import shipped_moments
    from lifelong_edit.model.editable import EditableModel
    from lifelong_edit.model.fingerprint import fingerprint
    from lifelong_edit.tracking.watch import Watched

    if store.exists() and any(store.iterdir()):
        raise RequestError(f"{store} is not empty. Give a new folder, or go on with an interrupted init without this.")
    options.hide_loading_bars()
    editable = EditableModel.open(model, options.torch_dtype(dtype), device)
    profile = profile_for(model, named)
    if profile is not None:
        settings = profile.fitted(settings, editable)
    pinned, base, texts = settings.pinned(editable), fingerprint(editable), _texts(text)
    if texts is None:
        shipped_moments(model, {layer: editable.shape(layer)[1] for layer in pinned.layers}, base)
    said = None if watch is None else sum(Watched.on_base(editable, watch).said)
    source = "second moments beside the model" if texts is None else f"{counted(len(texts), 'paragraph')} of {text}"
    watching = "" if watch is None else f"; the base says {said} of {counted(len(watch.facts), 'watched fact')}"
    share = "" if prompts is None else f", {settings.prompt_share:g} of C from {counted(len(prompts), 'prompt')}"
    suited = "" if profile is None else f", by the profile {printable(profile.name)}"
    choices = f"layers {listed([str(n) for n in pinned.layers])}{suited}, {source}{share}{watching}"
    told = f"{store} would be made: {choices}. Nothing is made."
    print_result(as_json, {"store": store, "fingerprint": base, "config": pinned.to_dict(), "watched": said}, told)


def _show(folder: Path, base: str, as_json: bool) -> None:
    """Print the second moments in a folder, and whether they are of this model."""
    from lifelong_edit.editing.second_moments import beside_model, read_moment

    found = []
    for path in sorted(filter(Path.is_file, beside_model(folder, 0).parent.glob("layer-*.safetensors"))):
        moment, about = read_moment(path.read_bytes())
        fits = about.get("fingerprint") == base
        found.append({"file": path, "layer": about.get("layer"), "tokens": moment.count, "width": len(moment.matrix),
                      "fits": fits, "text": about.get("text")})  # fmt: skip
    rows = [[f["layer"], f["tokens"], f["width"], "yes" if f["fits"] else "no", str(f["text"])[:SHORT]] for f in found]
    text = table(rows, ["layer", "tokens", "width", "of this model", "text"])
    none = f"{printable(folder)} has no second moments. Collect them: --text FILE"
    print_result(as_json, found, text if found else none)
