"""How transformers prepares the images of a model: `preprocessor_config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from weights_convert.printable import shown

FILE_NAME = "preprocessor_config.json"
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers.
_OTHER = {"do_resize": False, "do_pad": True, "rescale_offset": True}
"""What changes images in a way that jtl does not have."""


_WHOLE_FROM, _CONVNEXT_CROP = 384, 224 / 256
"""From which size on ConvNeXt's processor crops nothing, and what it crops below by default."""


def stated(said: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a processor states under the names of timm's `pretrained_cfg`, and notes of the rest.

    Args:
        said: The file's content.
    """
    known, notes = _framing(said)
    normalizing, more = _normalizing(said)
    notes += more
    if "resample" in said:
        known["interpolation"] = _RESAMPLING.get(_hashed(said["resample"]))
        if known["interpolation"] is None:
            notes.append(_unused("resample", said["resample"]))
    notes += [_unused(key, value) for key, value in _OTHER.items() if said.get(key) is value]
    known |= normalizing
    return {key: value for key, value in known.items() if value is not None}, notes


def _framing(said: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Size and crop."""
    size, crop_pct = said.get("size"), said.get("crop_pct")
    if not isinstance(size, dict):
        edge, box = size, size and [3, size, size]
    elif "shortest_edge" in size:
        edge = size["shortest_edge"]
        box = [3, edge, edge]
    elif {"height", "width"} <= size.keys():
        edge, box = None, [3, size["height"], size["width"]]
    else:
        return {"crop_pct": crop_pct}, [_unused("size", size)] if size else []
    if edge is not None and _is_number(edge) and _is_of_convnext(said):
        if edge < _WHOLE_FROM:
            return {"input_size": box, "crop_pct": crop_pct or _CONVNEXT_CROP}, []
        note = (
            f"the {FILE_NAME} is ConvNeXt's, which resizes images as a whole from {_WHOLE_FROM} "
            "pixels on, whatever their shape, and uses no crop_pct. To train likewise: --fit squash"
        )
        return {"input_size": box, "crop_pct": 1.0}, [note]
    crop = said.get("crop_size")
    if crop and said.get("do_center_crop", crop_pct is None) is True:
        sides = crop if isinstance(crop, dict) else {"height": crop, "width": crop}
        box = [3, sides.get("height"), sides.get("width")]
        shorter = box[1] if edge is None else edge
        if _is_number(shorter) and _is_number(box[1]) and 0 < box[1] <= shorter:
            crop_pct = box[1] / shorter
    elif isinstance(size, dict) and edge is None and said.get("do_resize") is not False:
        note = (
            f"size in the {FILE_NAME} is a height and a width: images are resized as a whole "
            "there, whatever their shape. To train likewise: --fit squash"
        )
        return {"input_size": box, "crop_pct": crop_pct or 1.0}, [note]
    return {"input_size": box, "crop_pct": crop_pct}, []


def _is_of_convnext(said: Mapping[str, Any]) -> bool:
    """Whether it is the processor of ConvNeXt, which transformers takes for ResNets as well."""
    kind = said.get("image_processor_type") or said.get("feature_extractor_type")
    named = isinstance(kind, str) and kind.startswith("ConvNext")
    size = said.get("size")
    return named or (kind is None and isinstance(size, dict) and _is_number(said.get("crop_pct")))


def _normalizing(said: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Mean, standard deviation and the order of channels, for images scaled to [0, 1]."""
    mean, std = said.get("image_mean"), said.get("image_std")
    flip = said.get("do_flip_channel_order") is True
    without = said.get("do_normalize") is False or (flip and mean is None and std is None)
    if without:
        mean, std = [0.0] * 3, [1.0] * 3
    notes: list[str] = []
    scale = _scale(said)
    if scale is None:
        notes.append(_unused("rescale_factor", said.get("rescale_factor")))
    elif said.get("do_rescale") is False and (without or not _are_of_bytes(mean)):
        notes.append(
            f"do_rescale in the {FILE_NAME} is false, which is not used: images are taken to be "
            "scaled to [0, 1] before, as mean and std say. If the weights expect values up to 255, "
            "give --mean R,G,B and --std R,G,B divided by 255"
        )
    elif scale != 1 and all(map(_are_numbers, (mean, std))):
        mean, std = ([round(x / scale, 7) for x in part or ()] for part in (mean, std))
    found = {"mean": mean, "std": std}
    if flip and all(_are_numbers(part) and len({*part}) == 1 for part in (mean, std)):
        found["channel_order"] = "bgr"
    elif flip:
        notes.append(
            f"{_unused('do_flip_channel_order', True)}. If the weights expect blue first: --bgr, "
            "with --mean R,G,B and --std R,G,B"
        )
    return found, notes


def _scale(said: Mapping[str, Any]) -> float | None:
    """What a value of 1 in [0, 1] is before the mean is taken off; None where it is unclear."""
    factor = 1 if said.get("do_rescale") is False else said.get("rescale_factor", 1 / 255)
    return round(255 * factor, 5) or None if _is_number(factor) and factor > 0 else None


def _are_of_bytes(values: Any) -> bool:
    return _are_numbers(values) and max(values) > 1


def _are_numbers(values: Any) -> TypeGuard[list[float]]:
    return isinstance(values, list) and len(values) == 3 and all(map(_is_number, values))


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30


def _hashed(value: Any) -> Any:
    return value if isinstance(value, int) else None


def _unused(key: str, value: Any) -> str:
    return f"{key} in the {FILE_NAME} is {shown(value, 60)}, which is not used"
