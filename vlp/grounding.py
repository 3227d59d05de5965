"""`vlp ground`: where on a film a query finds its evidence.

The local reader's logit is a bias plus the sum over patches of attention x evidence, attention being the softmax of the
evidence (`vlp.model.LocalReader`). The heat map is that attention laid over the original film: half of the score taken
apart, not a picture made beside it. (Evidence itself has no zero: a constant can move between it and the bias and
change nothing. Its softmax does not see that constant. On 13 boxes of NIH films, cutting evidence at zero hit none,
this hit 6.) So a map says where the query looks, and only the score says whether it is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from kgkit.interface import FloatArray, InputError
from vlp.artifact import VlpModel, load_model
from vlp.denial import ResolvedQueries
from vlp.images import BLANK, ResizePad, is_blank, load_image
from vlp.queries import resolve_queries
from vlp.types import Grounding

_BOX_LEVEL = 0.5
_STANDS_OUT = 0.999  # the largest value is 1 but for rounding
_SMOOTHING_PATCHES = 1.0
"""Standard deviation. Patches see beyond themselves and answer to edges first; on films with drawn squares
this smoothing
moved the peak from the rim into the square (EfficientNet-Lite0: from 50 hits in 100 to 78)."""
_OPACITY = 0.55
_COLOUR_MAP = "inferno"
_BOX_COLOUR, _READER_COLOUR = (64, 224, 208), (255, 255, 255)


@dataclass(frozen=True, slots=True)
class GroundConfig:
    """One grounding.

    Attributes:
        model_dir: MODEL folder.
        image: A film.
        query: Name, concept id or free text.
        out_path: PNG with the heat map over the film; None to draw nothing.
        encoder_dir: ENCODER for a query the model does not hold; by default where it stood at training.
    """

    model_dir: Path
    image: Path
    query: str
    out_path: Path | None = None
    encoder_dir: Path | None = None


def ground(config: GroundConfig) -> Grounding:
    """Locate the evidence for a query on a film, and draw it.

    Raises:
        InputError: if the model, the film or the query is not what it should be.
    """
    model = load_model(config.model_dir)
    film = load_image(config.image)
    if is_blank(film):
        raise InputError(BLANK, config.image)
    grounding = ground_film(model, film, resolve_queries(model, [config.query], config.encoder_dir))[0]
    if config.out_path is not None:
        save_overlay(film, grounding, config.out_path)
    return grounding


def ground_film(model: VlpModel, film: FloatArray, resolved: ResolvedQueries) -> list[Grounding]:
    """Ground several queries on one film; float32 [H, W] grey 0..1."""
    height, width = film.shape
    geometry = ResizePad((height, width), model.recipe.tower.input_size)
    output = model.answer(torch.from_numpy(geometry.apply(film)).unsqueeze(0), resolved.vectors)
    scores = resolved.read(output.logits)[0].float().sigmoid().tolist()
    groundings = []
    weights = output.attention[0, : len(resolved.queries)].float().numpy()
    for query, attention, score in zip(resolved.queries, weights, scores, strict=True):
        heatmap = heatmap_in_pixels(attention, geometry, model.patches.first_centre)
        groundings.append(Grounding(query, heatmap, hottest_box(heatmap), score))
    return groundings


def heatmap_in_pixels(attention: FloatArray, geometry: ResizePad, first_centre: tuple[float, float]) -> FloatArray:
    """Attention per patch as a map over the original film.

    It is smoothed over neighbouring patches, interpolated between their centres, and counted from an even share
    upwards: 0 is a patch that gets its share of the attention or less. It is divided by its largest value, unless no
    place gets twice its share: a map in which nothing stands out stays pale.

    Args:
        attention: float [Hp, Wp], not negative.
        geometry: How the film lies in the square.
        first_centre: (y, x) of the centre of patch (0, 0), input pixels.

    Returns:
        float32 [H, W], 0..1.
    """
    smooth = ndimage.gaussian_filter(attention, _SMOOTHING_PATCHES, mode="constant")
    height, width = geometry.original_size
    xs = geometry.to_input(np.stack([np.arange(width) + 0.5, np.zeros(width)], axis=1))[:, 0]
    ys = geometry.to_input(np.stack([np.zeros(height), np.arange(height) + 0.5], axis=1))[:, 1]
    rows, columns = smooth.shape
    at_row = (ys - first_centre[0]) * rows / geometry.input_size
    at_column = (xs - first_centre[1]) * columns / geometry.input_size
    at = np.meshgrid(at_row, at_column, indexing="ij")
    heat = ndimage.map_coordinates(smooth, at, order=1, mode="nearest").astype(np.float32)
    share = float(attention.mean())
    excess: FloatArray = np.maximum(heat - np.float32(share), 0).astype(np.float32)
    # A film is padded, never cropped, so all of it was seen and nothing here is NaN.
    peak = max(float(excess.max()), share)
    if peak > 0:
        excess /= np.float32(peak)
    return excess


def hottest_box(heatmap: FloatArray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1), half-open, around the connected region above half of the peak that holds the peak.

    None where no place gets twice its share of the attention (see `heatmap_in_pixels`).
    """
    heat = np.nan_to_num(heatmap)
    if heat.max() < _STANDS_OUT:
        return None
    regions, _ = ndimage.label(heat >= _BOX_LEVEL * heat.max())
    peak = np.unravel_index(int(heat.argmax()), heat.shape)
    rows, columns = np.nonzero(regions == regions[peak])
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def overlay(
    film: FloatArray, grounding: Grounding, drawn: Sequence[tuple[float, float, float, float]] = ()
) -> npt.NDArray[np.uint8]:
    """The film with the heat map over it, the box around its hottest region, and boxes that readers drew.

    Args:
        film: float32 [H, W], 0..1.
        grounding: Of this film.
        drawn: Readers' boxes (x0, y0, x1, y1), half-open, in pixels of the film.

    Returns:
        uint8 [H, W, 3].
    """
    from matplotlib import colormaps

    heat = np.nan_to_num(grounding.heatmap)
    colours = colormaps[_COLOUR_MAP](heat)[..., :3]
    opacity = (_OPACITY * heat)[..., None]  # cold places show the film unchanged
    picture = film[..., None] * (1 - opacity) + colours * opacity
    pixels: npt.NDArray[np.uint8] = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    if grounding.box is not None:
        _draw_box(pixels, grounding.box, _BOX_COLOUR)
    for x0, y0, x1, y1 in drawn:
        _draw_box(pixels, (round(x0), round(y0), round(x1), round(y1)), _READER_COLOUR)
    return pixels


def save_overlay(
    film: FloatArray,
    grounding: Grounding,
    path: Path,
    drawn: Sequence[tuple[float, float, float, float]] = (),
) -> None:
    """Write the overlay as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    Image.fromarray(overlay(film, grounding, drawn)).save(temporary, format="PNG")
    temporary.replace(path)


def _draw_box(pixels: npt.NDArray[np.uint8], box: tuple[int, int, int, int], colour: tuple[int, int, int]) -> None:
    """Frame a box in place."""
    height, width = pixels.shape[:2]
    x0, y0, x1, y1 = max(box[0], 0), max(box[1], 0), min(box[2], width), min(box[3], height)
    line = max(1, round(max(height, width) / 256))
    frame = np.zeros((height, width), dtype=bool)
    frame[y0:y1, x0:x1] = True
    frame[y0 + line : max(y1 - line, y0), x0 + line : max(x1 - line, x0)] = False
    pixels[frame] = colour
