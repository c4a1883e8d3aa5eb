"""Pictures inside a page: as data, so that no file needs to be served."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

MAX_PIXELS = 2**20
"""Larger pictures are shown as JPEG; the file to download stays a PNG."""


def picture_uri(picture: Image) -> str:
    """A PIL picture as a `data:` URI."""
    is_large = picture.width * picture.height > MAX_PIXELS
    buffer = io.BytesIO()
    if is_large:
        picture.convert("RGB").save(buffer, format="JPEG", quality=92)
    else:
        picture.save(buffer, format="PNG")
    return data_uri(buffer.getvalue(), "image/jpeg" if is_large else "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """Bytes of the MIME type `kind` as a `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure_uri(figure: Figure, *, is_transparent: bool = True) -> str:
    """A matplotlib figure as an SVG in a `data:` URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=is_transparent)
    return data_uri(buffer.getvalue(), "image/svg+xml")
