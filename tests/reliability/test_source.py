"""Goals 22 and 24 in the sources: no way to SQL, to code or to a model but the ones that are meant.

What `tests/test_layout.py` bans already is not looked for again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils import Database, hookimpl
from sqlite_utils.plugins import pm

from lifelong_edit.store import Ledger
from tests.test_layout import PACKAGE, SOURCES, called, dotted_name, imports

pytestmark = pytest.mark.reliability
TREES = {dotted_name(path): ast.parse(path.read_text("utf-8")) for path in SOURCES}

# Modules that run, unpack, load or fetch what others wrote.
FOREIGN = set(
    "asyncio cffi code codeop ctypes ftplib http huggingface_hub imp multiprocessing pty requests runpy smtplib socket "
    "socketserver subprocess tarfile urllib webbrowser xmlrpc yaml zipfile".split()
)
RUNNING = {"os.system", "os.popen", "os.fork", "os.startfile", "shutil.unpack_archive", "tempfile.mktemp"}
UNPICKLING = {"np.load", "numpy.load", "np.fromfile", "torch.jit.load", "torch.package", "pd.read_pickle"}
FETCHING = {
    "hf_hub_download",
    "snapshot_download",
    "cached_file",
    "load_dataset",
    "pipeline",
    "load_state_dict_from_url",
}
BUILTINS = {"eval", "exec", "compile", "__import__", "__builtins__", "builtins"}
UNSAFE = {"allow_pickle": True, "weights_only": False, "use_safetensors": False, "local_files_only": False}
IMPORTERS = {PACKAGE + name for name in (".__init__", ".methods.__init__", ".kinds.__init__")}  # of own modules
NAMING = {PACKAGE + ".report.hosts: socket", PACKAGE + ".report.hosts: urllib.parse.urlsplit"}  # names of this computer
FORMATTERS = {PACKAGE + ".world.text", PACKAGE + ".algebra.system"}  # of templates of their own

EXTENDING = {"enable_load_extension", "load_extension", "create_function", "register_function", "create_aggregate"}
HIDING = {"alter", "replace", "ignore", "upsert"}  # of sqlite-utils: they change a table or lose a row in passing
WHERE = {"rows_where", "pks_and_rows_where", "count_where", "delete_where", "search_sql"}

LOADERS = {
    "GenerationConfig.from_pretrained": {"local_files_only": True},
    "AutoConfig.from_pretrained": {"trust_remote_code": False, "local_files_only": True},
    "AutoTokenizer.from_pretrained": {"trust_remote_code": False, "local_files_only": True},
    "AutoModelForCausalLM.from_pretrained": {
        "trust_remote_code": False,
        "local_files_only": True,
        "use_safetensors": True,
    },
}


def code_from_outside(module: str, tree: ast.AST) -> Iterator[str]:
    """Every way to run, unpickle or fetch something that the package does not hold."""
    for line, name in imports(tree):
        if f"{module}: {name}" in NAMING:
            continue
        if name.split(".")[0] in FOREIGN | BUILTINS or name in RUNNING | UNPICKLING or name.split(".")[-1] in FETCHING:
            yield f"{module}:{line}: import of {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in BUILTINS:
            yield f"{module}:{node.lineno}: {node.id}"
        if isinstance(node, ast.Attribute) and (ast.unparse(node) in RUNNING | UNPICKLING or node.attr in FETCHING):
            yield f"{module}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith(("os.exec", "os.spawn", "os.posix_spawn")):
            yield f"{module}:{node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.Call):
            yield from (f"{module}:{node.lineno}: {reason}" for reason in suspicious(module, node))


def suspicious(module: str, call: ast.Call) -> Iterator[str]:
    name = called(call)
    if name.endswith("import_module") and module not in IMPORTERS:
        wanted = call.args[0] if call.args else None
        if not (isinstance(wanted, ast.Constant) and isinstance(wanted.value, str)):
            yield f"{name} of a name that is computed"
        elif wanted.value.split(".")[0] in FOREIGN | BUILTINS:
            yield f"{name} of {wanted.value}"
    if name.endswith((".format", ".format_map")) and module not in FORMATTERS:
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        if not isinstance(receiver, ast.Constant):
            yield f"{name} of a text that may be a user's"
    for keyword in call.keywords:
        if keyword.arg in UNSAFE and not (
            isinstance(keyword.value, ast.Constant) and keyword.value.value is not UNSAFE[keyword.arg]
        ):
            yield f"{keyword.arg}={ast.unparse(keyword.value)}"


def sql_from_outside(module: str, tree: ast.AST) -> Iterator[str]:
    """Every way to SQLite that could take a plugin, an extension, or a condition that is no literal."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, where = called(node), f"{module}:{node.lineno}"
        last = name.rpartition(".")[2]
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        plugins = given.get("execute_plugins")
        if last == "Database" and not (isinstance(plugins, ast.Constant) and plugins.value is False):
            yield f"{where}: {name} with plugins"
        if last in EXTENDING:
            yield f"{where}: {name}"
        if last in WHERE and "." in name and any(not isinstance(argument, ast.Constant) for argument in node.args[:1]):
            yield f"{where}: {name} of a text that is no literal"
        if last in {"insert", "insert_all", "upsert", "upsert_all", "create", "create_table", "transform"}:
            yield from (f"{where}: {name}({hidden}=...)" for hidden in sorted(HIDING & {*given}))


def loaders(trees: dict[str, ast.Module]) -> dict[str, tuple[str, ast.Call]]:
    """To every loader of transformers its call, and the function the call stands in."""
    found: dict[str, tuple[str, ast.Call]] = {}
    for module, tree in trees.items():
        for function in ast.walk(tree):
            if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and called(node).endswith(".from_pretrained"):
                        assert called(node) not in found, f"{called(node)} is called twice"
                        found[called(node)] = (f"{module}.{function.name}", node)
    return found


def test_nothing_is_run_unpickled_or_fetched() -> None:
    assert [line for module, tree in TREES.items() for line in code_from_outside(module, tree)] == []
    print(f"goal 24: {len(TREES)} files of the package, 0 ways to run, unpickle or fetch what others wrote")


def test_sqlite_is_reached_without_plugins_extensions_or_conditions_from_outside() -> None:
    assert [line for module, tree in TREES.items() for line in sql_from_outside(module, tree)] == []


def test_a_model_is_loaded_in_one_place_with_these_arguments() -> None:
    calls = loaders(TREES)
    where = {function.rsplit(".", 1)[0] for function, _ in calls.values()}
    assert where == {f"{PACKAGE}.model.loading", f"{PACKAGE}.model.config"}
    for name, wanted in LOADERS.items():
        _, call = calls.pop(name)
        assert len(call.args) == 1 and all(keyword.arg is not None for keyword in call.keywords)  # nothing unpacked
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        assert {argument: ast.literal_eval(given[argument]) for argument in wanted} == wanted
    assert calls == {}
    mentions = sum(
        isinstance(n, ast.Attribute) and n.attr == "from_pretrained" for t in TREES.values() for n in ast.walk(t)
    )
    assert mentions == len(LOADERS)  # none is called by another name


@pytest.mark.parametrize(
    "line",
    [
        "import subprocess",
        "from os import system",
        "os.execv('sh', [])",
        "os.posix_spawn('sh', [], {})",
        "from builtins import eval as compute",
        "run = exec",
        "np.load(path)",
        "from numpy import load\nload(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(folder, use_safetensors=flag)",
        "AutoConfig.from_pretrained(name, local_files_only=False)",
        "from huggingface_hub import snapshot_download",
        "transformers.pipeline('text-generation')",
        "importlib.import_module(name)",
        "importlib.import_module('subprocess')",
        "prompt.format(subject)",
        "request.prompt.format_map(values)",
    ],
)
def test_a_way_to_foreign_code_is_found(line: str) -> None:
    assert list(code_from_outside(f"{PACKAGE}.engine.x", ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "Database(connection)",
        "sqlite_utils.Database(connection, execute_plugins=flag)",
        "db.conn.enable_load_extension(True)",
        "db['facts'].rows_where(condition)",
        "table.search_sql(columns)",
        "table.insert(row, alter=True)",
        "table.insert_all(rows, replace=True)",
    ],
)
def test_a_way_to_foreign_sql_is_found(line: str) -> None:
    assert list(sql_from_outside("m", ast.parse(line)))


def test_ordinary_lines_are_not_suspected() -> None:
    code = (
        "'{} of {}'.format(a, b)\nimport_module('numpy.linalg')\nload(data)\n"
        "re.compile('x')\nf(local_files_only=True)\ntorch.load\n"
        "Database(connection, execute_plugins=False)\ntable.rows_where('seq = ?', [seq])\nre.search(pattern, text)"
    )
    assert list(code_from_outside("m", ast.parse(code))) == []
    assert list(sql_from_outside("m", ast.parse(code))) == []


class Plugin:
    """A plugin of sqlite-utils that notes the connections it is shown."""

    def __init__(self) -> None:
        self.shown: list[object] = []

    @hookimpl
    def prepare_connection(self, conn: object) -> None:
        self.shown.append(conn)


def test_no_plugin_of_sqlite_utils_is_shown_a_ledger(scratch: Path) -> None:
    plugin = Plugin()
    pm.register(plugin)
    try:
        Ledger.create(scratch / "ledger.db").close()
        for read_only in (True, False):
            Ledger.open(scratch / "ledger.db", read_only).close()
        assert plugin.shown == []
        Database(memory=True).close()
        assert len(plugin.shown) == 1  # it would have been
    finally:
        pm.unregister(plugin)
