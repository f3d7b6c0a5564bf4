"""Which functions of the source write, and which read: found by their calls, so that none is forgotten."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("analysis", "circuits", "reports", "steerscope", "tinystories")
CORE = ("analysis/files.py", "analysis/seals.py", "analysis/tensors.py")
WRITERS = {"write", "append", "renewed"}  # of analysis.files
READERS = {"read_json", "read_tensors", "check_folder_seal"}  # of analysis.seals and analysis.tensors
RAW = {
    "write_text",
    "write_bytes",
    "save_file",
    "to_parquet",
    "mkdir",
    "makedirs",
    "rename",
    "replace",
    "unlink",
    "rmdir",
    "rmtree",
    "move",
    "touch",
    "symlink_to",
    "save_pretrained",
    "mkdtemp",
    "mkstemp",
    "copytree",
    "savez",
    "write_html",
    "FileLock",
}


@cache
def calls() -> list[tuple[str, str, ast.Call, str]]:
    """The calls in the rooms that matter: where (`file:function`), the name, the call, and what it is called of."""
    found = []
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name in CORE or any(part.is_symlink() for part in [path, *path.parents][:-2]):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for function, call in _within(tree, ""):
                called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
                if called in WRITERS | READERS | RAW | {"open"}:
                    of = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
                    found.append((f"{name}:{function}", called, call, of))
    return found


def _within(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Call]]:
    for child in ast.iter_child_nodes(node):
        inner = child.name if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        if isinstance(child, ast.Call):
            yield inner, child
        yield from _within(child, inner)


@cache
def imports_of(name: str, module: str) -> frozenset[str]:
    """What a file has from a module of the core."""
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    return frozenset(
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in (module, "analysis")
        for alias in node.names
    )


def users(wanted: set[str], modules: tuple[str, ...]) -> set[str]:
    """Functions that call one of the wanted names of the core."""
    found = set()
    for where, called, _, of in calls():
        name = where.split(":")[0]
        if called in wanted and any((of or called) in imports_of(name, m) and of in ("", m) for m in modules):
            found.add(where)
    return found


def writers() -> set[str]:
    return users(WRITERS, ("files",))


def readers() -> set[str]:
    return users(READERS, ("seals", "tensors"))


def raw() -> set[str]:
    """Functions that change a folder by other means than the one writer: into a fresh folder of `renewed`, or else."""
    return {where for where, called, call, of in calls() if _opens(called, call) or _changes(called, call, of)}


def _opens(called: str, call: ast.Call) -> bool:
    modes = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    return called == "open" and any(set(mode) & set("wax+") for mode in modes)


def _changes(called: str, call: ast.Call, of: str) -> bool:
    if called in ("replace", "rename"):  # of a text, of a frame, of a record
        path = len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Constant)
        return path and of not in ("", "dataclasses")
    return called in RAW and (bool(of) or called == "FileLock")
