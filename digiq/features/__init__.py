"""Features of a frozen VLM, extracted once: engines, store, stage.

``extract_features`` takes plain screenshots, goals and actions. ``load_features`` reads the stage's artefact into
memory; ``open_features`` opens it without reading the rows. They are imported on first use, because they pull in torch
or the stage's inputs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digiq.features.extract import load_features, open_features
    from digiq.features.library import extract_features

__all__ = ["extract_features", "load_features", "open_features"]


def __getattr__(name: str) -> Any:
    if name == "extract_features":
        from digiq.features.library import extract_features

        return extract_features
    if name in ("load_features", "open_features"):
        from digiq.features import extract

        return getattr(extract, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
