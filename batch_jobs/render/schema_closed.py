"""Closes the models of a module: `model_config = ConfigDict(extra="forbid")` where it is missing.

By the syntax tree; only the lines that change are written anew, so that comments and layout of all others stay.
"""

from __future__ import annotations

import ast

from batch_jobs.render.schema_source import model_classes, names_of, parsed

CONFIG = "ConfigDict"


def closed(source: str) -> str:
    """A module with all its models closed to further fields.

    Args:
        source: that `check_source` has let pass.
    """
    tree = parsed(source)
    imported = names_of(tree, CONFIG)
    lines, changed = source.split("\n"), False
    for model in reversed(list(model_classes(tree))):  # from the end, so that line numbers above stay true
        changed |= _close(model, lines, imported[0] if imported else CONFIG)
    if changed and not imported:
        lines.insert(_after_imports(tree), f"from pydantic import {CONFIG}")
    return "\n".join(lines)


def _close(model: ast.ClassDef, lines: list[str], config: str) -> bool:
    """Close one model, in place; returns whether a line changed."""
    setting = _setting(model)
    if setting is not None:
        return _say_forbid(setting, lines)
    if model.body[0].lineno == model.lineno:  # `class A(BaseModel): ...` in one line
        model.body.insert(0, ast.parse(f'model_config = {config}(extra="forbid")').body[0])
        lines[model.lineno - 1 : model.end_lineno] = ast.unparse(model).split("\n")
        return True
    first, indent = model.body[0], " " * model.body[0].col_offset
    setting_line = f'{indent}model_config = {config}(extra="forbid")'
    is_docstring = isinstance(first, ast.Expr)
    place = (first.end_lineno or first.lineno) if is_docstring else first.lineno - 1
    lines[place:place] = ["", setting_line] if is_docstring else [setting_line, ""]
    return True


def _setting(model: ast.ClassDef) -> ast.Assign | ast.AnnAssign | None:
    for node in model.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "model_config" for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            return node
    return None


def _say_forbid(setting: ast.Assign | ast.AnnAssign, lines: list[str]) -> bool:
    """Put `extra="forbid"` into a model's own setting; returns whether a line changed."""
    forbid = ast.Constant("forbid")
    match setting.value:
        case ast.Call(keywords=words) as call:
            if any(word.arg == "extra" and _constant(word.value) == "forbid" for word in words):
                return False
            call.keywords = [ast.keyword("extra", forbid), *(word for word in words if word.arg != "extra")]
        case ast.Dict(keys=keys, values=values) as pairs:
            others = [(key, value) for key, value in zip(keys, values, strict=True) if _constant(key) != "extra"]
            pairs.keys = [ast.Constant("extra"), *(key for key, _ in others)]
            pairs.values = [forbid, *(value for _, value in others)]
    indent = " " * setting.col_offset
    lines[setting.lineno - 1 : setting.end_lineno] = [indent + ast.unparse(setting)]
    return True


def _constant(node: ast.expr | None) -> object:
    """What an expression is written as; None where it is no constant."""
    return node.value if isinstance(node, ast.Constant) else None


def _after_imports(tree: ast.Module) -> int:
    """The line below the last import; there is one, as a model needs BaseModel."""
    return max(node.end_lineno or 0 for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
