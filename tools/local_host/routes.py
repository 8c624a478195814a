"""Route templates of HTTP triggers, matched as ASP.NET Core matches them: `models/{name}/{version:int}`, `files/{*path}`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import unquote

_FLOAT = r"[+-]?[\d,]*\.?\d+(?:[eE][+-]?\d+)?"
_CONSTRAINTS = {
    "int": r"[+-]?\d+", "long": r"[+-]?\d+", "alpha": r"[A-Za-z]*", "bool": r"(?i:true|false)",
    "decimal": r"[+-]?[\d,]*\.?\d+", "float": _FLOAT, "double": _FLOAT,
    "guid": r"(?i:\{?[0-9a-f]{8}(?:-?[0-9a-f]{4}){3}-?[0-9a-f]{12}\}?)",
}
_PARAMETER = re.compile(r"\{(\*{0,2})(\w+)((?::[^:{}=?]+(?:\([^)]*\))?)*)(?:=([^{}?]*))?(\?)?\}")


class RouteError(ValueError):
    """A route template that cannot be understood."""


@dataclass(frozen=True, slots=True)
class Route:
    """One template of one function. `rank` orders templates: literal before constrained before free before catch-all."""

    function: str
    methods: frozenset[str]
    template: str
    pattern: re.Pattern[str]
    rank: tuple[int, ...]
    defaults: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, function: str, template: str, methods: Iterable[str]) -> Route:
        """No methods means every method. Raises RouteError for an unknown constraint or unbalanced braces."""
        pattern, rank, defaults = "", [], []
        for segment in filter(None, template.strip("/").split("/")):
            found = _PARAMETER.fullmatch(segment)
            if found is None:
                pattern += "/" + _mixed(segment, template)
                rank.append(1 if "{" in segment else 0)
                continue
            star, name, constraints, default, optional = found.groups()
            value = f"(?P<{name}>{_constrained(constraints, template) or ('.*' if star else '[^/]+')})"
            pattern += f"(?:/{value})?" if star or optional or default is not None else f"/{value}"
            rank.append(4 if star else 2 if constraints else 3)
            if default is not None:
                defaults.append((name, default))
        return cls(function, frozenset(m.upper() for m in methods), template,
                   re.compile(pattern + "/?", re.IGNORECASE), tuple(rank), tuple(defaults))

    def match(self, method: str, path: str) -> dict[str, str] | None:
        """The parameters found in a decoded path that starts with a slash, or None."""
        if self.methods and method not in self.methods:
            return None
        found = self.pattern.fullmatch(path)
        if found is None:
            return None
        return dict(self.defaults) | {name: value for name, value in found.groupdict().items() if value}


class RouteTable:
    """All routes of an app, the most specific first."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = sorted(routes, key=lambda route: route.rank)

    def match(self, method: str, path: str) -> tuple[str, dict[str, str]] | None:
        """The function to call and its route parameters. Like the host's, a wrong method is no match (404, not 405)."""
        for route in self._routes:
            if (params := route.match(method, path)) is not None:
                return route.function, params
        return None


def decode_path(raw: str) -> str:
    """A request path as Kestrel hands it on: percent-decoded but for %2F, then without `.` and `..` segments.

    Raises ValueError when the escapes are no UTF-8 or hide a NUL.
    """
    path = unquote(re.sub("%2f", "%252F", raw, flags=re.IGNORECASE), errors="strict")
    if "\0" in path:
        raise ValueError("a NUL in the path")
    kept: list[str] = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            kept = kept[:-1] if len(kept) > 1 else kept
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept) + ("/" if segments[-1] in (".", "..") else "")


def _constrained(constraints: str, template: str) -> str:
    """The regular expression of `:int`, `:length(2,5)`, `:regex(...)`; of several, the last with a shape of its own."""
    pattern = ""
    for constraint in filter(None, re.split(r":(?![^(]*\))", constraints)):
        name, _, argument = constraint.partition("(")
        argument = argument.removesuffix(")")
        if name in _CONSTRAINTS:
            pattern = _CONSTRAINTS[name]
        elif name in ("length", "minlength", "maxlength"):
            bounds = {"length": argument, "minlength": f"{argument},", "maxlength": f"0,{argument}"}[name]
            pattern = f"[^/]{{{bounds.replace(' ', '')}}}"
        elif name == "regex":
            pattern = argument.removeprefix("^").removesuffix("$")
        elif name != "required":
            raise RouteError(f"Route '{template}': the constraint '{name}' is not supported by the local host.")
    return pattern


def _mixed(segment: str, template: str) -> str:
    """A literal segment, or literals around parameters, such as `{name}.{extension}`."""
    pattern, end = "", 0
    for found in _PARAMETER.finditer(segment):
        literal = re.escape(segment[end:found.start()])
        pattern += f"{literal}(?P<{found[2]}>{_constrained(found[3], template) or '[^/]+'})"
        end = found.end()
    rest = segment[end:]
    if "{" in rest or "}" in rest:
        raise RouteError(f"Route '{template}' cannot be understood at '{segment}'.")
    return pattern + re.escape(rest)
