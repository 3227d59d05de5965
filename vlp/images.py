"""Films: JPEG, PNG (8 and 16 bit), TIFF and DICOM to grey values, and a resize that can be undone."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from kgkit.interface import InputError

FloatArray = npt.NDArray[np.float32]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
_DICOM_MAGIC = b"DICM"
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

    def to_input(self, xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Points of the film in the square; [..., 2] to float64 [..., 2]."""
        return np.asarray(xy, dtype=np.float64) * self._scale() + self._shift()

    def to_original(self, xy: npt.ArrayLike) -> npt.NDArray[np.float64]:
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

    def _scale(self) -> npt.NDArray[np.float64]:
        (height, width), (original_height, original_width) = self.content_size, self.original_size
        return np.array([width / original_width, height / original_height])

    def _shift(self) -> npt.NDArray[np.float64]:
        top, left = self.offset
        return np.array([left, top], dtype=np.float64)


def load_image(path: Path) -> FloatArray:
    """Read a film as grey values.

    8-bit files are divided by 255. Deeper files and DICOM pixels (after rescale, VOI LUT or window, and
    inversion of MONOCHROME1, DICOM PS3.3 C.7.6.3 and C.11) have no fixed range and are scaled from their own
    minimum and maximum; a blank film gives zeros.

    Returns:
        float32 [H, W] in 0..1.

    Raises:
        InputError: if the file is missing, empty, or not an image that can be read.
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
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return _grey(image)
    except UnidentifiedImageError:
        raise InputError("not an image; expected JPEG, PNG, TIFF or DICOM", path) from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
    ) as error:
        raise InputError(f"damaged image ({error})", path) from error


def find_images(paths: list[Path]) -> list[Path]:
    """Files as given, folders replaced by the image files in them (sorted, by suffix, at any depth).

    Raises:
        InputError: if a path is missing or a folder holds no image file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(
                file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
            )
            if not inside:
                raise InputError(f"no image in this folder; looked for {', '.join(IMAGE_SUFFIXES)}", path)
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError("no such file or folder", path)
    return found


def _grey(image: Image.Image) -> FloatArray:
    if image.mode in _DEEP_MODES:
        return _stretch(np.asarray(image))
    return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)


def _stretch(values: npt.NDArray[np.generic]) -> FloatArray:
    pixels = np.asarray(values, dtype=np.float32)
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low) or not np.isfinite(high) or high <= low:
        return np.zeros(pixels.shape, dtype=np.float32)
    return ((pixels - low) / np.float32(high - low)).astype(np.float32)


def _decode_dicom(content: bytes, path: Path) -> FloatArray:
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns about harmless deviations of many real files
            dataset = pydicom.dcmread(io.BytesIO(content))
            pixels = dataset.pixel_array
            if pixels.ndim == 3 and dataset.get("SamplesPerPixel", 1) == 1:
                pixels = pixels[0]  # the first frame of a multi-frame object
            if pixels.ndim == 3:
                pixels = pixels.mean(axis=-1)
            else:
                pixels = apply_voi_lut(apply_modality_lut(pixels, dataset), dataset)
    except Exception as error:  # pydicom and its decoders raise many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"not a readable DICOM image ({reason})", path) from error
    grey = _stretch(pixels)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1" and grey.max() > 0:
        grey = np.float32(1) - grey
    return grey
