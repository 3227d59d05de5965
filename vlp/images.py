"""Films: JPEG, PNG (8 and 16 bit), TIFF and DICOM to grey values, and a resize that can be undone.

Grey values that have no fixed range (more than 8 bits, DICOM without a window) are stretched between their 0.1 and 99.9
percentiles: a few hot pixels or a burnt-in marker would otherwise press the lungs into a handful of greys. A window
that a DICOM names is somebody's choice and is kept as it is.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from kgkit.interface import DoubleArray, FloatArray, InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
_DICOM_MAGIC = b"DICM"
_CLIPPED = 0.001
"""Part of the pixels below and above the stretched range of grey values."""
_MAX_PIXELS = 89_478_485
"""Pillow's own limit: a file of a few kilobytes may ask for terabytes. Pillow only warns up to twice as many."""
_ENDS = np.array([np.iinfo(np.int32).min, np.iinfo(np.int32).max], dtype=np.int64)
"""Values outside of any window: what a DICOM makes of them are its darkest and lightest grey."""
BLANK = "blank film (every pixel is the same)"
_DEEP_MODES = ("I", "I;16", "I;16B", "I;16L", "F")


@dataclass(frozen=True, slots=True)
class ResizePad:
    """Fit a film into a square without squeezing it: scale its longer side, pad the shorter with black.

    Coordinates are continuous (x, y): pixel i covers the interval [i, i + 1).

    Attributes:
        original_size: (height, width) of the film in pixels.
        input_size: Side of the square in pixels.
    """

    original_size: tuple[int, int]
    input_size: int

    @property
    def content_size(self) -> tuple[int, int]:
        """(height, width) of the film inside the square, in input pixels, at least 1."""
        factor = self.input_size / max(self.original_size)
        height, width = (max(1, round(side * factor)) for side in self.original_size)
        return height, width

    @property
    def offset(self) -> tuple[int, int]:
        """(top, left) of the film inside the square, in input pixels."""
        height, width = self.content_size
        return (self.input_size - height) // 2, (self.input_size - width) // 2

    def to_input(self, xy: npt.ArrayLike) -> DoubleArray:
        """Points of the film in the square; [..., 2] to float64 [..., 2]."""
        return np.asarray(xy, dtype=np.float64) * self._scale() + self._shift()

    def to_original(self, xy: npt.ArrayLike) -> DoubleArray:
        """Inverse of `to_input`."""
        return (np.asarray(xy, dtype=np.float64) - self._shift()) / self._scale()

    def apply(self, image: FloatArray) -> FloatArray:
        """The square: float32 [H, W] to float32 [input_size, input_size], resampled with antialiasing."""
        height, width = self.content_size
        resized = image
        if image.shape != (height, width):
            resized = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        square = np.zeros((self.input_size, self.input_size), dtype=np.float32)
        top, left = self.offset
        square[top : top + height, left : left + width] = resized
        return square

    def _scale(self) -> DoubleArray:
        (height, width), (original_height, original_width) = self.content_size, self.original_size
        return np.array([width / original_width, height / original_height])

    def _shift(self) -> DoubleArray:
        top, left = self.offset
        return np.array([left, top], dtype=np.float64)


def load_image(path: Path) -> FloatArray:
    """Read a film as grey values.

    8-bit files are divided by 255. Deeper files, and DICOM pixels (after rescale and inversion of MONOCHROME1, DICOM
    PS3.3 C.7.6.3 and C.11) are stretched between percentiles (see above); with a VOI LUT or window, by its range. A
    blank film gives zeros.

    Returns:
        float32 [H, W] in 0..1.

    Raises:
        InputError: if the file is missing, empty, not an image that can be read, or larger than any film.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", path) from error
    return decode_image(content, path)


def decode_image(content: bytes, path: Path) -> FloatArray:
    """As `load_image`, for bytes already read; `path` is only named in errors."""
    if not content:
        raise InputError("empty file, not an image", path)
    if content[128:132] == _DICOM_MAGIC or path.suffix.lower() in (".dcm", ".dicom"):
        return _decode_dicom(content, path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > _MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            return _grey(image)
    except UnidentifiedImageError:
        raise InputError("not an image; expected JPEG, PNG, TIFF or DICOM", path) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # the warning where it is made an error
        raise InputError(f"too large for a film; expected at most {_MAX_PIXELS:,} pixels", path) from None
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"damaged image ({error})", path) from error


def is_blank(film: FloatArray | npt.NDArray[np.uint8]) -> bool:
    """Whether every pixel is the same: a film that shows nothing."""
    return bool(film.min() == film.max())


def to_bytes(film: FloatArray) -> npt.NDArray[np.uint8]:
    """Grey 0..1 as 0..255: float32 to uint8 of the same shape; exact for films that were 8 bit."""
    grey: npt.NDArray[np.uint8] = np.rint(film * np.float32(255)).astype(np.uint8)
    return grey


def reduce_film(film: FloatArray, side: int) -> npt.NDArray[np.uint8]:
    """A film small enough to keep: its longer side at most `side` pixels, never enlarged.

    Returns:
        uint8 [h, w]; `ResizePad` of the original size applies to it as to the film itself.
    """
    height, width = film.shape
    if max(height, width) <= side:
        return to_bytes(film)
    height, width = ResizePad((height, width), side).content_size
    small = Image.fromarray(film).resize((width, height), Image.Resampling.BILINEAR)
    return to_bytes(np.clip(np.asarray(small), 0, 1))


def difference_hash(film: npt.NDArray[np.uint8]) -> str:
    """What a film looks like, as 64 hex digits: equal for copies in another format, size or quality, as a rule.

    Whether each of 16 x 16 places is brighter than its right neighbour.
    """
    small = np.asarray(Image.fromarray(film).resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return np.packbits(small[:, 1:] > small[:, :-1]).tobytes().hex()


def find_images(paths: list[Path]) -> list[Path]:
    """Files as given, folders replaced by the image files in them (sorted, at any depth).

    They are known by their suffix; archives often name DICOM files by their UID, without one.

    Raises:
        InputError: if a path is missing or a folder holds no image file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.is_file() and _is_image_file(file))
            if not inside:
                kinds = f"{', '.join(IMAGE_SUFFIXES)}, and DICOM by its content"
                raise InputError(f"no image in this folder; looked for {kinds}", path)
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError("no such file or folder", path)
    return found


def _is_image_file(path: Path) -> bool:
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return True
    with path.open("rb") as stream:
        return stream.read(132)[128:] == _DICOM_MAGIC


def _grey(image: Image.Image) -> FloatArray:
    if image.mode in _DEEP_MODES:
        return _stretch(np.asarray(image))
    return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


def _stretch(values: npt.NDArray[np.generic]) -> FloatArray:
    """0..1 between two values that leave a thousandth of the pixels below and above; all zeros if they are one."""
    pixels = np.asarray(values, dtype=np.float32)
    if pixels.size == 0 or not np.isfinite(pixels).all():
        return np.zeros(pixels.shape, dtype=np.float32)
    rank = int(_CLIPPED * pixels.size)  # of few pixels none is clipped
    low, high = float(pixels.min()), float(pixels.max())
    if rank:
        ordered = np.partition(pixels.ravel(), [rank, pixels.size - 1 - rank])
        inner = float(ordered[rank]), float(ordered[pixels.size - 1 - rank])
        low, high = inner if inner[1] > inner[0] else (low, high)
    return _between(pixels, low, high)


def _between(values: npt.NDArray[np.generic], low: float, high: float) -> FloatArray:
    """0..1 between two values; all zeros if they are one."""
    pixels = np.asarray(values, dtype=np.float32)
    if not low < high:
        return np.zeros(pixels.shape, dtype=np.float32)
    scaled: FloatArray = np.clip((pixels - np.float32(low)) / np.float32(high - low), 0, 1)
    return scaled


def _decode_dicom(content: bytes, path: Path) -> FloatArray:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    darkest_and_lightest: DoubleArray | None = None
    try:
        dataset = pydicom.dcmread(io.BytesIO(content))
        pixels = dataset.pixel_array
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            pixels = pixels[0]  # the first frame of a multi-frame object
        if dataset.get("SamplesPerPixel", 1) > 1:
            pixels = pixels.mean(axis=-1)
        else:
            pixels = apply_modality_lut(pixels, dataset)
            if dataset.get("VOILUTSequence") or dataset.get("WindowWidth") not in (None, ""):
                darkest_and_lightest = apply_voi_lut(_ENDS, dataset)
            pixels = apply_voi_lut(pixels, dataset)
    except Exception as error:  # pydicom and its decoders raise many kinds
        raise InputError(f"not a readable DICOM image ({_dicom_problem(error)})", path) from error
    if pixels.ndim != 2:
        raise InputError(f"not one picture: its pixels have the shape {pixels.shape}, expected [rows, columns]", path)
    grey = _stretch(pixels) if darkest_and_lightest is None else _between(pixels, *sorted(darkest_and_lightest))
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and grey.max() > 0:
        grey = np.float32(1) - grey
    return grey


def _dicom_problem(error: Exception) -> str:
    """What went wrong, in one line; for a compression without a decoder, which package brings one."""
    lines = str(error).strip().splitlines()
    missing = [line.strip().rstrip(".") for line in lines if "requires pylibjpeg" in line]
    if missing:
        name = re.search(r"'([^']+)'", lines[0])
        what = name.group(1) if name else "this compression"
        return f"no decoder installed for {what}: {missing[0].split(' - ')[-1]}"
    return lines[0] if lines else type(error).__name__
