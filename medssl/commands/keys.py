"""Names that change with what they stand for."""

import json
from hashlib import sha256
from typing import Any


def key_of(content: Any) -> str:
    """Short hash of plain content: with another one, a result or a folder is another."""
    return sha256(json.dumps(content, sort_keys=True, default=vars).encode()).hexdigest()[:12]
