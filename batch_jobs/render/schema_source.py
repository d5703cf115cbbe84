"""Python that an LLM wrote, judged by its syntax tree before anything of it is run: declarations of models, no more.

What is not on the lists below is refused, so that no trick has to be thought of. An annotation that is a text counts as
the code that it is: pydantic evaluates it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence

MAX_BYTES = 100_000
MAX_PROBLEMS = 5
FENCED = re.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)

_CONSTRAINED = ("conint", "confloat", "condecimal", "constr", "condate")
"""Not conlist and conset: their first argument is a type, and evaluated where it is a text."""
_PYDANTIC_TYPES = (
    *("PositiveInt", "NonNegativeInt", "NegativeInt", "NonPositiveInt", "PositiveFloat", "NonNegativeFloat"),
    *("NegativeFloat", "NonPositiveFloat", "FiniteFloat", "StrictStr", "StrictInt", "StrictFloat", "StrictBool"),
    *("PastDate", "FutureDate", "AwareDatetime", "NaiveDatetime", "PastDatetime", "FutureDatetime", "JsonValue"),
)
_CALLED = {
    "pydantic": ("Field", "ConfigDict", "StringConstraints", *_CONSTRAINED),
    "enum": ("auto",),
    "datetime": ("date", "datetime", "time", "timedelta"),
    "decimal": ("Decimal",),
}
_BASES = {"pydantic": ("BaseModel",), "enum": ("Enum", "StrEnum", "IntEnum")}
_TYPES = {
    "pydantic": _PYDANTIC_TYPES,
    "typing": ("Any", "Dict", "FrozenSet", "List", "Optional", "Sequence", "Set", "Tuple", "TypeAlias", "Union"),
    "datetime": ("date", "datetime", "time", "timedelta"),
    "decimal": ("Decimal",),
}
_FORMS = {"typing": ("Annotated", "Literal", "Final", "ClassVar")}
BUILTINS = ("str", "int", "float", "bool", "bytes", "list", "dict", "set", "frozenset", "tuple")

CLASS, ALIAS, DATA, MODULE = "a class", "a type", "a value", "module "


def _dotted(*tables: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for table in tables for module, names in table.items() for name in names)


CALLED, BASES, TYPES = _dotted(_CALLED), _dotted(_BASES), _dotted(_TYPES)
KNOWN = _dotted(_CALLED, _BASES, _TYPES, _FORMS)
MODULES = ("pydantic", "typing", "enum", "datetime", "decimal")


def without_fence(text: str) -> str:
    """The source within the first code fence, if there is one; with one line end at its end."""
    plain = text.replace("\r\n", "\n")
    found = FENCED.search(plain)
    return (found[1] if found else plain).strip() + "\n"


def parsed(source: str) -> ast.Module:
    """Read a source as a syntax tree.

    Raises:
        ValueError: it is no Python, or too much of it; says where.
    """
    if len(source.encode("utf-8", "replace")) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"line {error.lineno or 1}: {error.msg}") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"can't be read as Python: {error}") from None


def check_source(source: str) -> None:
    """Refuse a module that holds anything but declarations of pydantic models and enums; nothing of it is run.

    Raises:
        ValueError: the first problems, a line each.
    """
    tree = parsed(source)
    try:
        problems = _Reader().module(tree)
    except RecursionError:
        problems = ["it is nested too deeply"]
    if problems:
        raise ValueError("\n".join(problems[:MAX_PROBLEMS]))


class _Reader:
    """Walks a module once, in order: a name means what it was last declared as."""

    def __init__(self) -> None:
        self.symbols: dict[str, str] = dict.fromkeys(BUILTINS, ALIAS)
        self.problems: list[str] = []

    def module(self, tree: ast.Module) -> list[str]:
        """What is wrong with it, in order."""
        for name in (node.name for node in tree.body if isinstance(node, ast.ClassDef)):
            self._declare(name, CLASS, tree)  # a text may name a class that comes later
        if not any(isinstance(node, ast.ClassDef) for node in tree.body):
            self._refuse(tree, "it declares no class")
        for node in tree.body:
            self._statement(node)
        return self.problems

    def _refuse(self, node: ast.AST, what: str) -> None:
        self.problems.append(f"line {getattr(node, 'lineno', 1)}: {what}")

    def _declare(self, name: str, kind: str, node: ast.AST) -> None:
        if name.startswith("_"):
            self._refuse(node, f'"{name}": a name may not begin with "_"')
        elif self.symbols.get(name, kind) != kind:
            self._refuse(node, f'"{name}" means something else already')
        else:
            self.symbols[name] = kind

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.ImportFrom():
                self._import_from(node)
            case ast.Import():
                self._import(node)
            case ast.ClassDef():
                self._class(node)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._declare(name, self._kind(value), node)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value) if value is not None:
                self._annotation(annotation)
                self._declare(name, self._kind(value), node)
            case _ if _is_docstring(node):
                pass
            case _:
                self._refuse(node, f"{_named(node)} is not allowed: only imports, classes and constants are")

    def _kind(self, value: ast.expr) -> str:
        """Whether a constant is a type, to be used in annotations, or a value; refuses what is neither."""
        if not self._problems_of_type(value):
            return ALIAS
        self._value(value)
        return DATA

    def _import_from(self, node: ast.ImportFrom) -> None:
        module, names = node.module or "", [alias.name for alias in node.names]
        if node.level == 0 and module == "__future__" and names == ["annotations"]:
            return
        if node.level or module not in MODULES:
            self._refuse(node, f"{_source_of(node)} is not allowed: only from {', '.join(MODULES)}")
            return
        for alias in node.names:
            if f"{module}.{alias.name}" in KNOWN:
                self._declare(alias.asname or alias.name, f"{module}.{alias.name}", node)
            else:
                self._refuse(node, f"{module}.{alias.name} is not allowed; allowed of {module}: {_listed(module)}")

    def _import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name in MODULES:
                self._declare(alias.asname or alias.name, MODULE + alias.name, node)
            else:
                self._refuse(node, f"import {alias.name} is not allowed: only {', '.join(MODULES)}")

    def _class(self, node: ast.ClassDef) -> None:
        if node.decorator_list or node.keywords:
            self._refuse(node, f"class {node.name}: decorators and keywords are not allowed; set model_config")
        if not node.bases:
            self._refuse(node, f"class {node.name} has to be derived from BaseModel or an Enum")
        for base in node.bases:
            meaning = self._meaning(base)
            if meaning not in BASES | {CLASS} and not (isinstance(base, ast.Name) and base.id in ("str", "int")):
                self._refuse(node, f"class {node.name}: {_source_of(base)} is no base that is allowed")
        for part in node.body:
            self._member(part)

    def _member(self, node: ast.stmt) -> None:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                self._plain_name(name, node)
                self._annotation(annotation)
                if value is not None:
                    self._value(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                self._plain_name(name, node)
                self._value(value)
            case ast.Pass():
                pass
            case _ if _is_docstring(node):
                pass
            case _:
                self._refuse(node, f"{_named(node)} is not allowed in a class: only fields and model_config are")

    def _plain_name(self, name: str, node: ast.AST) -> None:
        """A field's name; one that is a type's name, too, would be what later annotations of the class mean."""
        if name.startswith("_"):
            self._refuse(node, f'"{name}": a name may not begin with "_"')
        elif name in self.symbols:
            self._refuse(node, f'"{name}" is the name of a type: name the field otherwise')

    def _meaning(self, node: ast.expr) -> str | None:
        """What a name, or a name of an imported module, stands for."""
        if isinstance(node, ast.Name):
            return self.symbols.get(node.id)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            of = self.symbols.get(node.value.id, "")
            if of.startswith(MODULE):
                name = f"{of.removeprefix(MODULE)}.{node.attr}"
                return name if name in KNOWN else None
            if of == CLASS and not node.attr.startswith("_"):
                return DATA  # a member of an Enum
        return None

    def _annotation(self, node: ast.expr) -> None:
        for problem in self._problems_of_type(node):
            self._refuse(node, problem)

    def _problems_of_type(self, node: ast.expr) -> list[str]:
        """What keeps an expression from being a type."""
        match node:
            case ast.Constant(value=None):
                return []
            case ast.Constant(value=str(text)):
                return self._problems_of_text(text)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._problems_of_type(left) + self._problems_of_type(right)
            case ast.Subscript():
                return self._problems_of_subscript(node)
            case ast.Call() if self._meaning(node.func) in {f"pydantic.{name}" for name in _CONSTRAINED}:
                return self._problems_of_value(node)
            case ast.Name() | ast.Attribute() if self._meaning(node) in TYPES | {ALIAS, CLASS}:
                return []
        return [f"{_source_of(node)} is no type that is allowed"]

    def _problems_of_text(self, text: str) -> list[str]:
        try:
            tree = ast.parse(text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return [f"{text[:60]!r} is no type"]
        return self._problems_of_type(tree.body)

    def _problems_of_subscript(self, node: ast.Subscript) -> list[str]:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        match self._meaning(node.value):
            case "typing.Literal":
                return self._problems_of_values(parts)
            case "typing.Annotated":
                return self._problems_of_type(parts[0]) + self._problems_of_values(parts[1:])
            case "typing.Final" | "typing.ClassVar":
                return self._problems_of_types(parts)
        types = [part for part in parts if not (isinstance(part, ast.Constant) and part.value is Ellipsis)]
        return self._problems_of_types([node.value, *types])

    def _problems_of_types(self, parts: Sequence[ast.expr]) -> list[str]:
        return [problem for part in parts for problem in self._problems_of_type(part)]

    def _value(self, node: ast.expr) -> None:
        for problem in self._problems_of_value(node):
            self._refuse(node, problem)

    def _problems_of_value(self, node: ast.expr) -> list[str]:
        """What keeps an expression from being plain data, or a call that only describes a field."""
        match node:
            case ast.Constant() | ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant()):
                return []
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
                return self._problems_of_values(parts)
            case ast.Dict(keys=keys, values=values) if None not in keys:
                return self._problems_of_values([*filter(None, keys), *values])
            case ast.Name() | ast.Attribute() if self._meaning(node) is not None:
                return []
            case ast.Call() if self._meaning(node.func) in CALLED and all(word.arg for word in node.keywords):
                return self._problems_of_values([*node.args, *(word.value for word in node.keywords)])
            case ast.Subscript():
                return self._problems_of_type(node)
        return [f"{_source_of(node)} is not allowed: only plain values, Field(...) and the like are"]

    def _problems_of_values(self, parts: Sequence[ast.expr]) -> list[str]:
        return [problem for part in parts for problem in self._problems_of_value(part)]


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _source_of(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 60 else f"{text[:59]}…"


def _named(node: ast.AST) -> str:
    """A statement in a few words: its first line."""
    return f'"{(ast.unparse(node).splitlines() or [""])[0][:60]}"'


def _listed(module: str) -> str:
    return ", ".join(sorted(name.partition(".")[2] for name in KNOWN if name.startswith(f"{module}.")))


def names_of(tree: ast.Module, imported: str) -> list[str]:
    """What a module calls something that it imports from pydantic, in order."""
    froms = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "pydantic"]
    return [alias.asname or alias.name for node in froms for alias in node.names if alias.name == imported]


def model_classes(tree: ast.Module) -> Iterator[ast.ClassDef]:
    """The classes that are derived from pydantic's BaseModel itself, whatever name it was imported by."""
    imports = [alias for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    modules = ["pydantic", *(alias.asname or alias.name for alias in imports if alias.name == "pydantic")]
    names = {*names_of(tree, "BaseModel"), *(f"{module}.BaseModel" for module in modules)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) in names for base in node.bases):
            yield node
