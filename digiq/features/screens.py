"""Converts screens from the forms that users have (several kinds of array, Pillow images, files) to the models' own."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from digiq.errors import DigiQError


def to_screenshot(image: Any, where: str = "image") -> npt.NDArray[np.uint8]:
    """uint8 [H, W, 3].

    Args:
      image: such an array; a grey one, [H, W] or [H, W, 1]; one with opacity, [H, W, 4], which is composited on white;
        floats in [0, 1]; a Pillow image; or the bytes or the path of an image file.
      where: what to call it in errors.

    Raises:
      DigiQError: it is none of these, or an unreadable image.
    """
    if isinstance(image, str | Path | bytes | bytearray | memoryview):
        name = f"{where} ({image})" if isinstance(image, str | Path) else where
        try:
            opened = Image.open(image if isinstance(image, str | Path) else io.BytesIO(image))
            opened.load()
        except (
            OSError,
            SyntaxError,
            ValueError,
            UnidentifiedImageError,
            Image.DecompressionBombError,
        ) as error:
            raise DigiQError(f"{name}: not a readable image ({error}).") from None
        image = opened
    if isinstance(image, Image.Image):
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            return _on_white(np.asarray(image.convert("RGBA")))
        return np.asarray(image.convert("RGB"))
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError):
        array = np.empty(0, object)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        raise DigiQError(
            f"{where}: an array of shape {array.shape} and type {array.dtype}; give [H, W], [H, W, 3] or [H, W, 4]."
        )
    if array.dtype != np.uint8:
        array = _to_bytes(array, where)
    if array.shape[-1] == 4:
        return _on_white(array)
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _to_bytes(array: npt.NDArray[Any], where: str) -> npt.NDArray[np.uint8]:
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if not np.issubdtype(array.dtype, np.number) or np.iscomplexobj(array):
        raise DigiQError(
            f"{where}: an array of type {array.dtype}; give bytes from 0 to 255 or floats from 0 to 1."
        )
    top = 1.0 if np.issubdtype(array.dtype, np.floating) else 255
    if not np.isfinite(array).all() or array.min() < 0 or array.max() > top:
        raise DigiQError(
            f"{where}: values from {array.min():g} to {array.max():g} of type {array.dtype}; give bytes from 0 to 255 or "
            "floats from 0 to 1."
        )
    return np.round(array * (255 / top)).astype(np.uint8)


def _on_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    opacity = rgba[..., 3:].astype(np.float32) / 255
    return np.round(rgba[..., :3] * opacity + 255 * (1 - opacity)).astype(np.uint8)
