"""How the names of image files end."""

from __future__ import annotations

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm",
)  # fmt: skip
"""What ends like this is an image without a look inside; decoding says whether it is."""
OTHER_IMAGE_EXTENSIONS = (
    ".jfif", ".heic", ".heif", ".avif", ".jp2", ".j2k", ".jxl", ".dcm", ".psd", ".svg", ".nef",
    ".cr2", ".cr3", ".arw", ".raf", ".dng", ".orf", ".rw2", ".tga", ".pcx", ".sgi", ".jpe", ".dib",
    ".pnm", ".pbm", ".exr", ".svs", ".ndpi", ".czi", ".lif", ".nd2",
)  # fmt: skip
"""Images too: some jtl cannot read, and says so, rather than leave them out in silence."""
