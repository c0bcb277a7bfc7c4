"""Features of a frozen VLM, extracted once: engine, store, stage.

``extract_features`` takes plain screenshots, goals and actions; ``load_features`` opens what the stage wrote. Both are
imported when first used, because they bring torch or the stage's inputs with them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digiq.features.engine import extract_features
    from digiq.features.extract import load_features

__all__ = ["extract_features", "load_features"]


def __getattr__(name: str) -> Any:
    if name == "extract_features":
        from digiq.features.engine import extract_features

        return extract_features
    if name == "load_features":
        from digiq.features.extract import load_features

        return load_features
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
