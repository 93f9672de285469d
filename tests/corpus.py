"""Files as users have them: what is odd, damaged or called strangely, each with what becomes of it."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from tests.made import picture

READ, REFUSED, PASSED = "read", "refused", "passed over"


def encoded(kind: str, mode: str = "RGB", pixels: np.ndarray | None = None, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture() if pixels is None else pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _turned(turn: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = turn
    return encoded("JPEG", exif=exif.tobytes())


def _moving(kind: str) -> bytes:
    return encoded(kind, save_all=True, append_images=[Image.fromarray(picture(seed)) for seed in (1, 2)])


def _tiff(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, pixels, **options)
    return stream.getvalue()


def _bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than there is memory for."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _sized(height: int, width: int) -> bytes:
    return encoded("PNG", pixels=picture(size=(height, width)))


PNG, JPEG, TIFF = encoded("PNG"), encoded("JPEG"), encoded("TIFF")
GREY16 = picture()[..., 0].astype(np.uint16) * 257
CONTENTS: dict[str, tuple[str, bytes]] = {  # name of the file -> what becomes of it, and what is in it
    "empty.png": (REFUSED, b""),
    "text.png": (REFUSED, b"not an image\n"),
    "html.jpg": (REFUSED, b"<html><body>404</body></html>"),
    "zeros.bmp": (REFUSED, b"\0" * 4096),
    "truncated_png.png": (REFUSED, PNG[: len(PNG) // 2]),
    "header_alone.png": (REFUSED, PNG[:33]),
    "no_end.jpg": (REFUSED, JPEG[:-2]),
    "truncated_tiff.tif": (REFUSED, TIFF[: len(TIFF) // 2]),
    "truncated_webp.webp": (REFUSED, encoded("WEBP")[:400]),
    "bomb.png": (REFUSED, _bomb(60_000, 60_000)),
    "no_pixels.png": (REFUSED, _bomb(0, 0)),
    "float_nan.tif": (REFUSED, _tiff(np.full((8, 8, 3), np.nan, np.float32), photometric="rgb")),
    "int32.tif": (REFUSED, _tiff(picture()[..., 0].astype(np.int32))),
    "pages.tif": (REFUSED, _tiff(np.stack([picture(0), picture(1)]), photometric="rgb")),
    "moving.webp": (REFUSED, _moving("WEBP")),
    "animated.gif": (REFUSED, _moving("GIF")),
    "jpeg_called.png": (READ, JPEG),
    "tiff_called.png": (READ, TIFF),
    "trailing.png": (READ, PNG + b"more"),
    "cmyk.jpg": (READ, encoded("JPEG", "CMYK")),
    "palette.png": (READ, encoded("PNG", "P")),
    "one_bit.png": (READ, encoded("PNG", "1")),
    "grey_alpha.png": (READ, encoded("PNG", "LA")),
    "sixteen_bits.tif": (READ, _tiff(GREY16)),
    "colour_16.tif": (READ, _tiff(picture().astype(np.uint16) * 257, photometric="rgb")),
    "lzw.tif": (READ, encoded("TIFF", compression="tiff_lzw")),
    "still.gif": (READ, encoded("GIF", "P")),
    "lossless.webp": (READ, encoded("WEBP", lossless=True)),
    "pixmap.ppm": (READ, encoded("PPM")),
    "plain.jp2": (READ, encoded("JPEG2000")),
    "one_pixel.png": (READ, _sized(1, 1)),
    "one_column.png": (READ, _sized(500, 1)),
    "very_wide.png": (READ, _sized(20, 20_000)),
    "turned_6.jpg": (READ, _turned(6)),
    "turned_9.jpg": (READ, _turned(9)),  # no such turn
}
WHOLE = (  # images by odd names
    "with space.png", "  leading.png", "'single'.png", '"double".png', "new\nline.png", "tab\t.png", "emoji😀.png",
    "umlaut_ü.png", "[brackets].png", "{braces}.png", "a=b.png", "a,b.png", "a;b.png", "100%.png", "#hash&amp.png",
    "$HOME.png", "${oc.env:HOME}.png", "-dash.png", "<script>alert(1)<script>.png", "UPPER.PNG", "two.dots.png",
    "007.png", "null.png", f"{'x' * 251}.png",
)  # fmt: skip
OTHERS = (".hidden.png", "._apple.png", "notes.txt", "Thumbs.db", "no_suffix", "photo.heic")


def fill(folder: Path) -> dict[str, str]:
    """Makes all of it in a folder, with links, a pipe and folders called like images; name -> what becomes of it."""
    folder.mkdir(parents=True)
    fates = dict.fromkeys(WHOLE, READ) | dict.fromkeys(OTHERS, PASSED)
    for number, name in enumerate(list(fates)):
        Image.fromarray(picture(1000 + number)).save(folder / name, "PNG")
    for name, (fate, content) in CONTENTS.items():
        (folder / name).write_bytes(content)
        fates[name] = fate
    outside = folder.parent / f"{folder.name}_outside"
    outside.mkdir()
    for name, target in (("linked", outside), ("loop", folder), ("broken_link.png", folder / "nowhere.png")):
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.png")
    within = {"called_like_an_image.png/within.png": READ, "42/7.png": READ, "linked/linked.png": READ,
              ".ipynb_checkpoints/copy.png": PASSED}  # fmt: skip
    for number, name in enumerate(within):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture(2000 + number)).save(folder / name)
    return fates | within | {"broken_link.png": PASSED, "pipe.png": PASSED}
