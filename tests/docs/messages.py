"""Every message that a person can be shown, read from the code: the text with its placeholders, its class, where it is raised.

Nothing is imported or run: the sources are parsed. A message is what an error class is called with. Where that is a name or a
call, the name's assignments and the function's returns in the same module are looked up; what cannot be known stays a
placeholder, written <name>.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

BASE = "MagdiError"

ELSEWHERE = {"ApiError": 1, "HTTPException": 1, "RecordError": 0, "PydanticCustomError": 1, "broken": 1}
"""Classes (and one function) outside of the family whose text is for a person, and which argument holds it."""

COLLECTED = {"config/load.py": "lines.append"}
"""Where broken rules become lines of one message: what they are handed to."""

RULES = ("config", "tasks")
"""Packages in which a ValueError is a rule somebody broke: a line of the ConfigError or TaskError that tells all of them."""

NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, order=True)
class Message:
    """One text, as written in the code."""

    module: str
    """Path below magdi_ray, such as config/load.py."""
    line: int
    kind: str
    """The error's class."""
    text: str
    """With placeholders written <name>."""
    status: int = 0
    """Of an ApiError: its HTTP status; else 0."""


@dataclass(frozen=True)
class Module:
    """A parsed source file."""

    path: str
    tree: ast.Module

    @cached_property
    def functions(self) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
        return {n.name: n for n in ast.walk(self.tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))}

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        return {name: value for node in self.tree.body for name, value in _assignment(node)}


@cache
def read_modules(package: Path) -> list[Module]:
    """Every module of a package, in the order of their paths."""
    files = sorted(package.rglob("*.py"))
    return [Module(str(file.relative_to(package)), ast.parse(file.read_text(encoding="utf-8"))) for file in files]


def family(modules: list[Module], base: str = BASE) -> set[str]:
    """The names of a class and of all classes that come from it."""
    bases = {
        node.name: {ast.unparse(one) for one in node.bases}
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {base}
    while more := {name for name, parents in bases.items() if parents & found} - found:
        found |= more
    return found


@cache
def find_messages(package: Path) -> list[Message]:
    """Every message, by module and line."""
    modules = read_modules(package)
    errors = family(modules)
    return sorted({message for module in modules for message in _messages_of(module, errors)})


def _messages_of(module: Module, errors: set[str]) -> Iterator[Message]:
    for function, call in _calls(module.tree, None):
        kind = ast.unparse(call.func).rpartition(".")[2]
        rule = kind == "ValueError" and module.path.split("/")[0] in RULES
        line = ast.unparse(call.func) == COLLECTED.get(module.path) and isinstance(call.args[0], ast.JoinedStr)
        if kind not in errors and kind not in ELSEWHERE and not rule and not line:
            continue
        place = ELSEWHERE.get(kind, 0)
        if len(call.args) <= place:
            continue
        status = _status(call) if kind in ("ApiError", "HTTPException") else 0
        before = f"{ast.literal_eval(call.args[0])}: " if kind == "broken" and isinstance(call.args[0], ast.Constant) else ""
        for text in texts(call.args[place], function, module):
            if re.search(r"[a-z]{2}", re.sub(r"<[^>]*>", "", text)):
                yield Message(module.path, call.lineno, "ValueError" if line else kind, before + text, status)


def _calls(node: ast.AST, function: ast.AST | None) -> Iterator[tuple[ast.AST | None, ast.Call]]:
    """Every call below a node, with the innermost function it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield function, child
        inside = child if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) else function
        yield from _calls(child, inside)


def _status(call: ast.Call) -> int:
    first = call.args[0]
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, int) else 0


def texts(expression: ast.expr, function: ast.AST | None, module: Module, depth: int = 0) -> list[str]:  # noqa: PLR0911 - a case a kind of expression
    """What an expression may say; a placeholder where that cannot be known from the module."""
    match expression:
        case ast.Constant(value=str() as text):
            return [text]
        case ast.JoinedStr(values=values):
            return ["".join(_piece(value, function, module) for value in values)]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [
                one + other for one in texts(left, function, module, depth) for other in texts(right, function, module, depth)
            ]
        case ast.IfExp(body=body, orelse=orelse):
            return [*texts(body, function, module, depth), *texts(orelse, function, module, depth)]
        case ast.Name(id=name) if depth < 3:
            found = [value for key, value in _assigned(getattr(function, "body", [])) if key == name]
            found = found or ([module.constants[name]] if name in module.constants else [])
            known = [text for value in found for text in texts(value, function, module, depth + 1)]
            return known or [placeholder(expression)]
        case ast.Call(func=ast.Name(id=name)) if depth < 3 and name in module.functions:
            called = module.functions[name]
            returned = [node.value for node in ast.walk(called) if isinstance(node, ast.Return) and node.value is not None]
            known = [text for value in returned for text in texts(value, called, module, depth + 1)]
            return known or [placeholder(expression)]
    return [placeholder(expression)]


def _piece(value: ast.expr, function: ast.AST | None, module: Module) -> str:
    if isinstance(value, ast.Constant):
        return str(value.value)
    if not isinstance(value, ast.FormattedValue):
        return placeholder(value)
    inner = value.value
    if isinstance(inner, ast.Name) and value.conversion == -1:
        known = texts(inner, function, module, 2)
        if len(known) == 1 and "<" not in known[0] and " " in known[0]:  # a sentence, and not the first value of a variable
            return known[0]
    quoted = value.conversion == ord("r")
    return f"'{placeholder(inner)}'" if quoted else placeholder(inner)


def placeholder(expression: ast.expr) -> str:  # noqa: PLR0911 - a case a kind of expression
    """<word>: the last plain name in an expression, which is what its value is called in the code."""
    match expression:
        case ast.Constant(value=value):
            return str(value)
        case ast.Attribute(attr="__name__"):
            return "<type>"
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return f"<{name.strip('_').lower()}>"
        case ast.Call(func=ast.Name(id="len"), args=[inner]):
            return f"<count of {placeholder(inner).strip('<>')}>"
        case ast.Call(func=ast.Attribute(attr="join" | "get"), args=[inner, *_]):
            return placeholder(inner)
        case ast.Call(func=ast.Name(id="type"), args=[inner]):
            return f"<type of {placeholder(inner).strip('<>')}>"
        case ast.Call(args=[inner, *_]):
            return placeholder(inner)
        case ast.Call(func=func):
            return placeholder(func)
        case ast.Subscript(value=inner):
            return placeholder(inner)
        case ast.GeneratorExp(generators=[ast.comprehension(iter=inner), *_]):
            return placeholder(inner)
        case ast.BoolOp(values=[first, *_]):
            return placeholder(first)
        case ast.IfExp(body=body):
            return placeholder(body)
    names = [name for name in NAME.findall(ast.unparse(expression)) if len(name) > 2]
    return f"<{names[-1].lower()}>" if names else "<...>"


def _assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """Names that get a value in a body, and the values; those of nested blocks too."""
    return (found for statement in body for node in ast.walk(statement) for found in _assignment(node))


def _assignment(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            yield name, value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            yield name, value
        case ast.NamedExpr(target=ast.Name(id=name), value=value):
            yield name, value
