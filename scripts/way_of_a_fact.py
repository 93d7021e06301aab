"""How many files and functions of the package one fact goes through, from the call of a verb to its return.

The bundled model, the default settings, one edit to warm up, then one `apply` and one `revert`. The exit status is 1
when an apply touches more than 25 files of the package or a revert more than 20.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

import lifelong_edit
from lifelong_edit import EditRequest, LifelongEditor

LIMITS = {"apply": 25, "revert": 20}  # files
PACKAGE = Path(str(lifelong_edit.__file__)).parent
COUNTED: dict[str, Callable[..., Any]] = {
    "tokenisations": PreTrainedTokenizerBase.__call__,
    "requests made": EditRequest.__init__,
}


@dataclass(frozen=True)
class Way:
    """The package's functions that a call went through, as (file, name), and how often those in `COUNTED` were called.

    Comprehensions and lambdas count as functions, two methods of one name in one file as one.
    """

    functions: frozenset[tuple[str, str]]
    calls: dict[str, int]

    @property
    def files(self) -> list[str]:
        """The files that these functions are in, relative to the package, in order."""
        return sorted({file for file, _ in self.functions})

    @classmethod
    def of(cls, call: Callable[[], Any]) -> Way:
        """Profile a call."""
        called: Counter[CodeType] = Counter()

        def note(frame: FrameType, event: str, _argument: Any) -> None:
            if event == "call":
                called[frame.f_code] += 1

        sys.setprofile(note)
        try:
            call()
        finally:
            sys.setprofile(None)
        # What a module does when it is imported is no step of the way.
        own = (code for code in called if code.co_name != "<module>" and PACKAGE in Path(code.co_filename).parents)
        functions = frozenset((str(Path(code.co_filename).relative_to(PACKAGE)), code.co_name) for code in own)
        return cls(functions, {name: called[function.__code__] for name, function in COUNTED.items()})


def ways(store: Path, model: Path) -> dict[str, Way]:
    """One apply and one revert of a fact, after an edit of another one."""
    with warnings.catch_warnings(), LifelongEditor.create(store, model) as editor:
        # The model knows nobody of these names, so ridges are halved to no avail: the longest way there is.
        warnings.simplefilter("ignore")
        editor.apply([EditRequest("{} was born in", "Ada Quill", "Tarsis")])
        fact = EditRequest("{} was born in", "Bob Mill", "Tarsis", id="bob")
        return {"apply": Way.of(lambda: editor.apply([fact])), "revert": Way.of(lambda: editor.revert("bob"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("checkpoints/tiny-world"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = ways(Path(folder) / "store", chosen.model)
    for verb, way in found.items():
        counts = ", ".join(f"{count} {name}" for name, count in way.calls.items())
        print(f"{verb}: {len(way.files)} files (at most {LIMITS[verb]}), {len(way.functions)} functions, {counts}")
        print("  " + "\n  ".join(way.files))
    return int(any(len(way.files) > LIMITS[verb] for verb, way in found.items()))


if __name__ == "__main__":
    sys.exit(main())
