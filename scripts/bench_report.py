"""The report of a store of 600 facts: its size, how long Chromium takes to load it, and what it looks like.

python scripts/bench_report.py /tmp/report       # makes the store there (minutes), unless it is there already
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median

import torch
from playwright.sync_api import ViewportSize, sync_playwright
from tqdm import tqdm

from lifelong_edit.engine import LifelongEditor
from lifelong_edit.report.page import write_report
from lifelong_edit.tracking.budget import Budget, OnRed, Scope
from lifelong_edit.tracking.watch import Watch
from lifelong_edit.world.generator import BUNDLED_SEED, World
from lifelong_edit.world.requests import edit_requests, untouched_facts
from lifelong_edit.world.tasks import held_out_stories

FACTS, BATCH, LIMIT = 600, 10, 6e6  # bytes
SCREEN: ViewportSize = {"width": 1280, "height": 900}


def made(folder: Path, model: Path) -> None:
    """A store with 600 facts, measured after every hundred, some of them reverted or replaced."""
    world = World.generate(BUNDLED_SEED)
    requests = edit_requests(world, FACTS, 0)
    watch = Watch(tuple(untouched_facts(world, 200, FACTS, 0)), tuple(held_out_stories(world, 20, 0)))
    with LifelongEditor.create(folder, model, dtype=torch.float32, watch=watch) as editor:
        for start in tqdm(range(0, FACTS, BATCH), unit="batch"):
            editor.apply(requests[start : start + BATCH], budget=Budget(every=5, on_red=OnRed.warn), actor="bench")
            if (start + BATCH) % 100 == 0:
                editor.relax()
                editor.measure(scope=Scope(oldest=100, sample=200), drift=True)
                wrong = [fact.id for fact in editor.facts().values() if fact.status == "active"][:8]
                editor.revert(*wrong, probe=0, reason="a source that was wrong")
                editor.restore(*wrong[:6], probe=0, reason="most of it was right after all")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    parser.add_argument("--browser", default="/usr/bin/chromium")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    store, page_file = chosen.folder / "store", chosen.folder / "report.html"
    if not store.exists():
        made(store, chosen.model)
    with LifelongEditor.open(store, chosen.model, read_only=True, dtype=torch.float32) as editor:
        size = write_report(editor, "store", page_file, deep=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chosen.browser, args=["--no-sandbox", "--disable-gpu"])
        page, times = browser.new_page(viewport=SCREEN), []
        for _ in range(3):
            start = time.perf_counter()
            page.goto(page_file.resolve().as_uri())
            page.wait_for_selector("#retention .plot-container")
            times.append(time.perf_counter() - start)
        page.screenshot(path=str(chosen.folder / "report.png"), full_page=True)
        browser.close()
    print(f"{page_file}: {size / 1e6:.2f} MB (limit {LIMIT / 1e6:.0f}), loaded in {median(times):.2f} s (median of 3)")
    return 0 if size < LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
