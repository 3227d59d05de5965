from __future__ import annotations

import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from kgkit.interface import InputError
from vlp.images import ResizePad, find_images, load_image

sides = st.integers(1, 3000)
points = st.floats(-10, 4000, allow_nan=False)


@given(sides, sides, st.integers(32, 512), points, points)
def test_to_original_undoes_to_input(height: int, width: int, size: int, x: float, y: float) -> None:
    geometry = ResizePad((height, width), size)
    back = geometry.to_original(geometry.to_input([x, y]))
    assert np.allclose(back, [x, y], atol=1e-6)


@given(sides, sides, st.integers(32, 512))
def test_the_film_lies_inside_the_square_and_keeps_its_shape(height: int, width: int, size: int) -> None:
    geometry = ResizePad((height, width), size)
    low, high = geometry.to_input([[0, 0], [width, height]])
    assert (low >= 0).all()
    assert (high <= size + 1e-9).all()
    assert max(high - low) == pytest.approx(size)
    longer, shorter = max(height, width), min(height, width)
    assert min(high - low) == pytest.approx(max(1, size * shorter / longer), abs=0.51)


def test_a_bright_spot_lands_where_the_geometry_says() -> None:
    film = np.zeros((300, 150), dtype=np.float32)
    film[200:230, 90:110] = 1
    geometry = ResizePad((300, 150), 96)
    square = geometry.apply(film)
    x, y = geometry.to_input([100, 215])
    centre = np.argwhere(square > 0.5).mean(axis=0) + 0.5
    assert centre == pytest.approx([y, x], abs=0.6)
    assert square[:, : geometry.offset[1]].max() == 0


def test_eight_bit_grey_and_rgb_agree(tmp_path: Path) -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    Image.fromarray(np.stack([values] * 3, axis=-1)).save(tmp_path / "rgb.png")
    assert np.allclose(load_image(tmp_path / "grey.png"), values / 255)
    assert np.allclose(load_image(tmp_path / "rgb.png"), values / 255)


def test_sixteen_bits_are_scaled_by_their_own_range(tmp_path: Path) -> None:
    values = np.linspace(1000, 5000, 64).round().astype(np.uint16).reshape(8, 8)
    Image.fromarray(values).save(tmp_path / "deep.png")
    film = load_image(tmp_path / "deep.png")
    assert film.dtype == np.float32
    assert np.allclose(film, (values - 1000.0) / 4000, atol=1e-5)


@pytest.mark.parametrize("value", [0, 77, 255])
def test_a_blank_film_is_finite(tmp_path: Path, value: int) -> None:
    Image.fromarray(np.full((9, 7), value, np.uint8)).save(tmp_path / "blank.png")
    Image.fromarray(np.full((9, 7), value, np.uint16)).save(tmp_path / "deep.png")
    assert np.isfinite(load_image(tmp_path / "blank.png")).all()
    assert (load_image(tmp_path / "deep.png") == 0).all()


def write_dicom(
    path: Path,
    values: np.ndarray,
    photometric: str = "MONOCHROME2",
    *,
    frames: np.ndarray | None = None,
    **tags: object,
) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.Rows, dataset.Columns = values.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, photometric
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.PixelData = (values if frames is None else frames).astype("<u2").tobytes()
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def test_monochrome1_is_the_negative_of_monochrome2(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 4096, size=(12, 10))
    write_dicom(tmp_path / "a.dcm", values)
    write_dicom(tmp_path / "b.dcm", values, "MONOCHROME1")
    assert np.allclose(load_image(tmp_path / "a.dcm"), 1 - load_image(tmp_path / "b.dcm"), atol=1e-6)


def test_window_and_rescale_follow_the_standard(tmp_path: Path) -> None:
    values = np.arange(0, 4096, 64).reshape(8, 8)
    tags = {"RescaleSlope": 2, "RescaleIntercept": -100, "WindowCenter": 2000, "WindowWidth": 1000}
    write_dicom(tmp_path / "w.dcm", values, **tags)
    rescaled = values * 2.0 - 100
    # DICOM PS3.3 C.11.2.1.2.1, linear: y = (x - (c - 0.5)) / (w - 1) + 0.5, clipped to 0..1
    expected = np.clip((rescaled - 1999.5) / 999 + 0.5, 0, 1)
    assert np.allclose(load_image(tmp_path / "w.dcm"), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.png", b"", "empty file"),
        ("a.png", b"this is not an image", "not an image; expected JPEG"),
        ("a.dcm", b"", "empty file"),
        ("a.dcm", b"\0" * 128 + b"DICM" + b"rubbish", "not a readable DICOM"),
    ],
)
def test_what_is_no_image_is_refused_by_name(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        load_image(path)
    assert str(caught.value).startswith(str(path))


def test_a_truncated_jpeg_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, size=(64, 64), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:700])
    with pytest.raises(InputError, match="damaged image"):
        load_image(tmp_path / "cut.jpg")


def png_header(side: int) -> bytes:
    """A PNG that says how large it is, and holds no pixel."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    end = struct.pack(">I", zlib.crc32(header)) + b"\0\0\0\0IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + end


@pytest.mark.parametrize("filter_", ["ignore", "error"])
@pytest.mark.parametrize("side", [9_460, 20_000])
def test_a_picture_larger_than_any_film_is_refused_whatever_is_done_with_warnings(
    tmp_path: Path, side: int, filter_: Literal["ignore", "error"]
) -> None:
    (tmp_path / "bomb.png").write_bytes(png_header(side))
    with warnings.catch_warnings():
        warnings.simplefilter(filter_, Image.DecompressionBombWarning)
        with pytest.raises(InputError, match=r"bomb\.png: too large for a film; expected at most 89,478,485 pixels"):
            load_image(tmp_path / "bomb.png")


def test_films_read_in_threads_leave_the_warnings_of_the_process_alone(tmp_path: Path) -> None:
    write_dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as workers:
        films = list(workers.map(load_image, [tmp_path / "a.dcm", tmp_path / "a.png"] * 50))
    assert len(films) == 100
    assert list(warnings.filters) == before


def test_folders_are_searched_and_missing_paths_named(tmp_path: Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "deep" / "er" / "x.PNG")
    (tmp_path / "deep" / "notes.txt").write_text("no film")
    assert find_images([tmp_path]) == [tmp_path / "deep" / "er" / "x.PNG"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no image in this folder"):
        find_images([tmp_path / "empty"])
    with pytest.raises(InputError, match="no such file or folder"):
        find_images([tmp_path / "gone"])


def test_a_few_hot_pixels_do_not_press_the_rest_together(tmp_path: Path) -> None:
    """One pixel in a thousand may be anything: the greys of the others are as without it."""
    values = np.random.default_rng(0).integers(1000, 5000, size=(100, 80))
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "clean.png")
    values.ravel()[:7] = 65535
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "hot.png")
    clean, hot = load_image(tmp_path / "clean.png"), load_image(tmp_path / "hot.png")
    assert np.abs(clean - hot).ravel()[7:].max() < 0.01
    assert (hot.ravel()[:7] == 1).all()


@given(
    st.lists(st.integers(0, 65535), min_size=1, max_size=400),
    st.floats(0.1, 50),
    st.floats(-1000, 1000),
)
def test_the_stretch_keeps_order_and_does_not_see_scale_or_offset(
    values: list[int], scale: float, offset: float
) -> None:
    from vlp.images import _stretch

    pixels = np.array(values * 5, dtype=np.float32)
    grey = _stretch(pixels)
    assert grey.min() >= 0
    assert grey.max() <= 1
    assert (np.diff(grey[np.argsort(pixels, kind="stable")]) >= 0).all()
    assert np.allclose(_stretch(pixels * np.float32(scale) + np.float32(offset)), grey, atol=0.02)


def test_a_window_is_kept_as_it_is(tmp_path: Path) -> None:
    """What the window leaves black stays black, however few pixels are bright."""
    values = np.full((100, 100), 200)
    values[0, :5] = 4000
    write_dicom(tmp_path / "w.dcm", values, WindowCenter=2000, WindowWidth=1000)
    film = load_image(tmp_path / "w.dcm")
    assert (film[0, :5] == 1).all()
    assert (film.ravel()[5:] == 0).all()


def test_a_window_that_the_pixels_do_not_fill_is_not_stretched(tmp_path: Path) -> None:
    values = np.linspace(1800, 2100, 100).round().astype(int).reshape(10, 10)
    expected = np.clip((values - 1999.5) / 999 + 0.5, 0, 1)
    for photometric, grey in (("MONOCHROME2", expected), ("MONOCHROME1", 1 - expected)):
        write_dicom(tmp_path / "w.dcm", values, photometric, WindowCenter=2000, WindowWidth=1000)
        assert np.allclose(load_image(tmp_path / "w.dcm"), grey, atol=1e-3)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("samples", [1, 3])
def test_of_several_frames_the_first_is_read_in_grey_or_colour(tmp_path: Path, frames: int, samples: int) -> None:
    first = np.random.default_rng(0).integers(0, 4096, (9, 7))
    pixels = np.stack([np.roll(first, number) for number in range(frames)])
    pixels = pixels[..., None].repeat(samples, -1) if samples > 1 else pixels
    colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    tags = {"NumberOfFrames": frames} | (colour if samples > 1 else {})
    write_dicom(tmp_path / "cine.dcm", first, **tags, frames=pixels)
    write_dicom(tmp_path / "film.dcm", first)
    assert np.allclose(load_image(tmp_path / "cine.dcm"), load_image(tmp_path / "film.dcm"), atol=1e-6)


def test_dicom_in_a_folder_needs_no_suffix(tmp_path: Path) -> None:
    for name in ("IM000001", "1.2.840.113619.2.55"):
        write_dicom(tmp_path / name, np.arange(64).reshape(8, 8))
    (tmp_path / "DICOMDIR.txt").write_text("no film")
    (tmp_path / "short").write_bytes(b"x")
    assert [path.name for path in find_images([tmp_path])] == ["1.2.840.113619.2.55", "IM000001"]
    assert load_image(tmp_path / "IM000001").shape == (8, 8)


def test_a_compression_without_decoder_names_the_package(tmp_path: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEGLSLossless

    write_dicom(tmp_path / "a.dcm", np.arange(64).reshape(8, 8))
    dataset = pydicom.dcmread(tmp_path / "a.dcm")
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset.PixelData = encapsulate([b"\0" * 64])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(tmp_path / "ls.dcm")
    from pydicom.pixels.decoders import JPEGLSLosslessDecoder

    words = "no decoder installed for JPEG-LS Lossless Image Compression: requires pylibjpeg"
    with pytest.raises(InputError, match="not a readable DICOM" if JPEGLSLosslessDecoder.is_available else words):
        load_image(tmp_path / "ls.dcm")


def test_jpeg_2000_in_dicom_is_read(tmp_path: Path) -> None:
    """16 bits allocated, 12 stored, lossless: the decoder that comes with Pillow does it."""
    import io

    from pydicom.encaps import encapsulate
    from pydicom.uid import JPEG2000Lossless

    values = np.random.default_rng(0).integers(0, 4096, size=(64, 48)).astype(np.uint16)
    write_dicom(tmp_path / "plain.dcm", values)
    dataset = pydicom.dcmread(tmp_path / "plain.dcm")
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG2000", irreversible=False, no_jp2=True)
    dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].VR = "OB"
    dataset.BitsStored, dataset.HighBit = 16, 15
    dataset.save_as(tmp_path / "j2k.dcm")
    assert np.array_equal(load_image(tmp_path / "j2k.dcm"), load_image(tmp_path / "plain.dcm"))
