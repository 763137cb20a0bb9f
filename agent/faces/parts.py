"""[OpenAPI] The pieces that both documents are put together from: dictionaries as OpenAPI 3.1 has them."""

from typing import Any, Final

REF: Final = "#/components/schemas/{name}"


def parameter(name: str, where: str, words: str) -> dict[str, Any]:
    """A parameter that is text."""
    return {
        "name": name,
        "in": where,
        "required": where == "path",
        "description": words,
        "schema": {"type": "string"},
    }


def ref(name: str) -> dict[str, Any]:
    """One of the schemas."""
    return {"$ref": REF.format(name=name)}


def json(name: str, media: str = "application/json") -> dict[str, Any]:
    """Content by one of the schemas."""
    return {media: {"schema": ref(name)}}


def text(example: str) -> dict[str, Any]:
    """Content that is plain text."""
    return {"text/plain": {"schema": {"type": "string"}, "example": example}}


def answer(words: str, content: dict[str, Any]) -> dict[str, Any]:
    """A response."""
    return {"description": words, "content": content}


def body(schema: dict[str, Any]) -> dict[str, Any]:
    """A request body in JSON."""
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def problems(*statuses: str) -> dict[str, Any]:
    """Responses that say why not, by their status."""
    return {status: answer("Why not.", json("Problem", "application/problem+json")) for status in statuses}
