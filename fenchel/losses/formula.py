"""Formulas as trees ["add", a, b], ["log", a], ["var", 0], ...: reading, and folding of numbers."""

from __future__ import annotations

import ast

import numpy as np

from fenchel.losses.calculus import Node, jets

ONE, ZERO = ["const", (1.0).hex()], ["const", (0.0).hex()]
_FUNCTIONS = ("exp", "log", "sqrt", "tanh", "sin", "cos", "atan", "softplus")
_LARGEST = float(np.finfo(float).max)
_CONSTANTS = {"pi": np.pi, "E": np.e}


def read(node: ast.expr, names: tuple[str, ...]) -> Node:
    """The tree of a parsed Python expression in these variables; ValueError where it holds anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        if not abs(node.value) <= _LARGEST:
            raise ValueError("a number in the expression is too large.")
        return ["const", float(node.value).hex()]
    if isinstance(node, ast.Name):
        if node.id in names:
            return ["var", names.index(node.id)]
        if node.id in _CONSTANTS:
            return ["const", float(_CONSTANTS[node.id]).hex()]
        raise ValueError(f"the name {node.id!r} in the expression is not among the variables {list(names)}.")
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = read(node.operand, names)
        return inner if isinstance(node.op, ast.UAdd) else ["mul", ["const", (-1.0).hex()], inner]
    if isinstance(node, ast.BinOp):
        return _binary(node, read(node.left, names), read(node.right, names))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1 and not node.keywords:
        return _call(node.func.id, read(node.args[0], names))
    raise ValueError(f"{ast.unparse(node)!r} in the expression is not understood; see from_expression for what is.")


def _binary(node: ast.BinOp, left: Node, right: Node) -> Node:
    if isinstance(node.op, ast.Add):
        return ["add", left, right]
    if isinstance(node.op, ast.Sub):
        return ["add", left, ["mul", ["const", (-1.0).hex()], right]]
    if isinstance(node.op, ast.Mult):
        return ["mul", left, right]
    if isinstance(node.op, ast.Div):
        return ["mul", left, ["pow", right, -1]]
    power = _number(simplified(right))
    if isinstance(node.op, ast.Pow) and power is not None:
        if power == 0.5:
            return ["sqrt", left]
        if power == -0.5:
            return ["pow", ["sqrt", left], -1]
        if power == int(power) and abs(power) <= 64:
            return ["pow", left, int(power)]
    raise ValueError(
        f"{ast.unparse(node)!r} in the expression is not understood: powers must be small integers or 1/2."
    )


def _call(name: str, inner: Node) -> Node:
    half = ["const", (0.5).hex()]
    if name == "log1p":
        return ["log", ["add", ONE, inner]]
    if name == "cosh":
        return ["cosh", inner]
    if name in ("sigmoid", "expit"):
        return ["mul", half, ["add", ONE, ["tanh", ["mul", half, inner]]]]
    if name not in _FUNCTIONS:
        known = ", ".join((*_FUNCTIONS, "log1p", "cosh", "sigmoid"))
        raise ValueError(f"the function {name!r} in the expression is not known; there are {known}.")
    return [name, inner]


def simplified(node: Node) -> Node:
    """Sums and products flattened, constants folded, log(1 + exp z) and log(cosh z) written with softplus."""
    name, *parts = node
    if name in ("const", "var"):
        return node
    if name == "pow":
        inner = simplified(parts[0])
        value = _number(inner)
        if inner[0] == "pow":
            return ["pow", inner[1], inner[2] * parts[1]]
        return ["pow", inner, parts[1]] if value is None else ["const", (value ** parts[1]).hex()]
    if name == "log" and parts[0][0] == "cosh":
        z = parts[0][1]
        twice, back = ["mul", ["const", (2.0).hex()], z], ["mul", ["const", (-1.0).hex()], z]
        return simplified(["add", ["softplus", twice], back, ["const", (-float(np.log(2.0))).hex()]])
    if name == "cosh":
        raise ValueError("cosh in the expression is understood inside of log only: it grows faster than a quadratic.")
    parts = [simplified(part) for part in parts]
    if name in ("add", "mul"):
        flat = [deep for part in parts for deep in (part[1:] if part[0] == name else [part])]
        numbers = [_number(part) for part in flat if part[0] == "const"]
        total = float(np.sum(numbers)) if name == "add" else float(np.prod(numbers))  # type: ignore[arg-type]
        rest = [part for part in flat if part[0] != "const"]
        if name == "mul" and total == 0.0:
            return ZERO
        if total != (0.0 if name == "add" else 1.0) or not rest:
            rest = [["const", total.hex()], *rest]
        return rest[0] if len(rest) == 1 else [name, *rest]
    (inner,) = parts
    if name == "log" and inner[0] == "add" and len(inner) == 3 and inner[1] == ONE and inner[2][0] == "exp":
        return ["softplus", inner[2][1]]
    value = _number(inner)
    return [name, inner] if value is None else ["const", float(jets([name, inner], np.zeros((1, 1)), 0)[0][0]).hex()]


def _number(node: Node) -> float | None:
    return float.fromhex(node[1]) if node[0] == "const" else None
