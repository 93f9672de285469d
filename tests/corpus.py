"""Files as users have them: what is odd, damaged or called strangely, each with what becomes of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

READ, REFUSED, PASSED = "read", "refused", "passed over"
Maker = Callable[[Path], object]


def picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """uint8 (H, W, 3): stripes with noise."""
    rng = np.random.default_rng(seed)
    stripes = 90 + 60 * (np.arange(size[1]) // 8 % 2)
    return np.clip(stripes[None, :, None] + rng.normal(0, 6, (*size, 3)) + [0, 10, 20], 0, 255).astype(np.uint8)


def encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _bytes(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def _pil(kind: str, mode: str = "RGB", **options: object) -> Maker:
    return lambda path: path.write_bytes(encoded(kind, mode, **options))


def _turned(turn: int) -> Maker:
    exif = Image.Exif()
    exif[0x0112] = turn
    return _pil("JPEG", exif=exif.tobytes())


def _moving(path: Path) -> None:
    frames = [Image.fromarray(picture(seed)) for seed in range(3)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def _tiff(pixels: np.ndarray, **options: object) -> Maker:
    return lambda path: tifffile.imwrite(path, pixels, **options)


def _bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more pixels than there is memory for."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    body = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _sized(height: int, width: int) -> Maker:
    return lambda path: Image.fromarray(picture(size=(height, width))).save(path)


PNG, JPEG, TIFF = encoded("PNG"), encoded("JPEG"), encoded("TIFF")
GREY16 = picture()[..., 0].astype(np.uint16) * 257
CONTENTS: dict[str, tuple[str, Maker]] = {  # name of the file -> what becomes of it, and how it is made
    "empty.png": (REFUSED, _bytes(b"")),
    "text.png": (REFUSED, _bytes(b"not an image\n")),
    "html.jpg": (REFUSED, _bytes(b"<html><body>404</body></html>")),
    "zeros.bmp": (REFUSED, _bytes(b"\0" * 4096)),
    "truncated_png.png": (REFUSED, _bytes(PNG[: len(PNG) // 2])),
    "header_alone.png": (REFUSED, _bytes(PNG[:33])),
    "no_end.jpg": (REFUSED, _bytes(JPEG[:-2])),
    "truncated_tiff.tif": (REFUSED, _bytes(TIFF[: len(TIFF) // 2])),
    "truncated_webp.webp": (REFUSED, _bytes(encoded("WEBP")[:400])),
    "bomb.png": (REFUSED, _bytes(_bomb(60_000, 60_000))),
    "no_pixels.png": (REFUSED, _bytes(_bomb(0, 0))),
    "float_nan.tif": (REFUSED, _tiff(np.full((8, 8, 3), np.nan, np.float32), photometric="rgb")),
    "int32.tif": (REFUSED, _tiff(picture()[..., 0].astype(np.int32))),
    "pages.tif": (REFUSED, _tiff(np.stack([picture(0), picture(1)]), photometric="rgb")),
    "moving.webp": (REFUSED, _moving),
    "animated.gif": (REFUSED, _moving),
    "jpeg_called.png": (READ, _bytes(JPEG)),
    "tiff_called.png": (READ, _bytes(TIFF)),
    "trailing.png": (READ, _bytes(PNG + b"more")),
    "cmyk.jpg": (READ, _pil("JPEG", "CMYK")),
    "palette.png": (READ, _pil("PNG", "P")),
    "one_bit.png": (READ, _pil("PNG", "1")),
    "grey_alpha.png": (READ, _pil("PNG", "LA")),
    "sixteen_bits.tif": (READ, _tiff(GREY16)),
    "colour_16.tif": (READ, _tiff(picture().astype(np.uint16) * 257, photometric="rgb")),
    "lzw.tif": (READ, _pil("TIFF", compression="tiff_lzw")),
    "still.gif": (READ, _pil("GIF", "P")),
    "lossless.webp": (READ, _pil("WEBP", lossless=True)),
    "pixmap.ppm": (READ, _pil("PPM")),
    "plain.jp2": (READ, _pil("JPEG2000")),
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
    """Makes all of it in a folder; name -> what becomes of it. Links, folders called like images and unreadable files
    are among it, as far as the file system has them.
    """
    folder.mkdir(parents=True)
    fates = dict.fromkeys(WHOLE, READ) | dict.fromkeys(OTHERS, PASSED)
    for number, name in enumerate(list(fates)):
        Image.fromarray(picture(1000 + number)).save(folder / name, "PNG")
    for name, (fate, make) in CONTENTS.items():
        make(folder / name)
        fates[name] = fate
    for name, fate in _places(folder):
        fates[name] = fate
    return fates


def _places(folder: Path) -> Iterator[tuple[str, str]]:
    (folder / "called_like_an_image.png").mkdir()
    Image.fromarray(picture(2000)).save(folder / "called_like_an_image.png/within.png")
    yield "called_like_an_image.png/within.png", READ
    (folder / "42").mkdir()
    Image.fromarray(picture(2001)).save(folder / "42/7.png")
    yield "42/7.png", READ
    (folder / ".ipynb_checkpoints").mkdir()
    Image.fromarray(picture(2002)).save(folder / ".ipynb_checkpoints/copy.png")
    yield ".ipynb_checkpoints/copy.png", PASSED
    (folder / "broken_link.png").symlink_to(folder / "nowhere.png")
    yield "broken_link.png", PASSED
    (folder / "loop").symlink_to(folder)
    outside = folder.parent / f"{folder.name}_outside"
    outside.mkdir()
    Image.fromarray(picture(2003)).save(outside / "linked.png")
    (folder / "linked").symlink_to(outside)
    yield "linked/linked.png", READ
    os.mkfifo(folder / "pipe.png")
    yield "pipe.png", PASSED
