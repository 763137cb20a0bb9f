"""[core] How deep JSON from outside may be nested: what is read once is walked again by others, and they recurse."""

from typing import Final

import jiter

NESTING_MAX: Final = 200
"""As deep as events may be: jiter's own bound."""


def shallow(text: bytes) -> bool:
    """Whether it is JSON that everybody can walk."""
    try:
        jiter.from_json(text)
    except ValueError:
        return False
    return True
