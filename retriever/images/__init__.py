"""An image, from a file or from memory, to pixels and to what an encoder takes."""

from .read import UnreadableImage, open_image, read_image

__all__ = ["UnreadableImage", "open_image", "read_image"]
