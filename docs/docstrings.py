"""Docstrings as Markdown: their equations, cross references and examples."""

import re

from griffe import Docstring, Extension, NameResolutionError, Object

_BLOCK = re.compile(r"^( *)\.\. math::(.*(?:\n(?:\1 +\S.*|[ \t]*(?=\n\1 +\S)))*)", flags=re.MULTILINE)
_INLINE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`(~?)([^`]+)`")


class Docstrings(Extension):
    """Rewrites each docstring before it is parsed."""

    def on_object(self, *, obj: Object, **_: object) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring:
            obj.docstring = Docstring(
                to_markdown(obj.docstring.value, obj),
                lineno=obj.docstring.lineno,
                parent=obj,
                parser=obj.docstring.parser,
                parser_options=obj.docstring.parser_options,
            )


def to_markdown(text: str, obj: Object) -> str:
    """Turn equations into fences, roles into links where they lead somewhere, `Example` into a section."""

    def block(found: re.Match[str]) -> str:
        indent = found[1]
        lines = [line.strip() for line in found[2].strip().splitlines()]
        return "\n".join(indent + line for line in ["```math", *lines, "```"])

    def link(found: re.Match[str]) -> str:
        short, name = found.groups()
        shown = name.rsplit(".", 1)[-1] if short else name
        return f'<autoref identifier="{_full(name, obj)}" optional>`{shown}`</autoref>'

    text = _BLOCK.sub(block, text)
    text = _INLINE.sub(r"`#!math \1`", text)
    text = _ROLE.sub(link, text)
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE)


def _full(name: str, obj: Object) -> str:
    """The full path of a name in a docstring; one that is not found is taken for full already."""
    first, _, rest = name.partition(".")
    try:
        return ".".join(filter(None, [obj.resolve(first), rest]))
    except NameResolutionError:
        return name
