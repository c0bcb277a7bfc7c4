"""Opens the processor of a model directory: the tokeniser and the image processor, but nothing for videos.

In many families, Hugging Face's processor includes a video processor, which needs torchvision. Screens are images, so
it is left out. Images are always resized by Pillow, because torchvision gives different pixels and features must not
depend on what else is installed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def without_video(kind: type) -> type:
    """A processor class like ``kind``, with the same name, that takes no video processor."""
    everything = kind.get_attributes()  # type: ignore[attr-defined]
    if "video_processor" not in everything:
        return kind

    def attributes(cls: type) -> list[str]:
        return [name for name in everything if name != "video_processor"]

    def arguments(cls: Any, *args: Any, **kwargs: Any) -> list[Any]:
        opened = dict(zip(attributes(cls), inherited(cls, *args, **kwargs), strict=True))
        return [opened.get(name) for name in everything]

    inherited = kind._get_arguments_from_pretrained.__func__  # type: ignore[attr-defined]
    body = {"get_attributes": attributes, "_get_arguments_from_pretrained": arguments}
    return type(kind.__name__, (kind,), {name: classmethod(made) for name, made in body.items()})


def open_processor(path: Path, *, trusted: bool = False) -> Any:
    """The processor in a directory; raises whatever Hugging Face raises if it does not open."""
    from transformers import AutoImageProcessor, AutoProcessor
    from transformers.models.auto import processing_auto as auto
    from transformers.utils.import_utils import is_torchvision_available

    names: Any = auto.PROCESSOR_MAPPING_NAMES  # type: ignore[attr-defined]
    name = _class_name(path) or names.get(_read(path / "config.json").get("model_type"))
    kind = auto.processor_class_from_name(name) if isinstance(name, str) and not trusted else None
    # Trust is always stated, because otherwise Hugging Face asks on the terminal.
    if kind is None or without_video(kind) is kind:
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=trusted)
    else:
        processor = without_video(kind).from_pretrained(path, trust_remote_code=trusted)  # type: ignore[attr-defined]
    if is_torchvision_available() and hasattr(processor, "image_processor"):
        processor.image_processor = AutoImageProcessor.from_pretrained(
            path, backend="pil", trust_remote_code=trusted
        )
    return processor


def _class_name(path: Path) -> str | None:
    for file in _FILES:
        about = _read(path / file)
        if "auto_map" in about:  # code in the directory, which AutoProcessor refuses
            return None
        if isinstance(about.get("processor_class"), str):
            return about["processor_class"]
    return None


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
