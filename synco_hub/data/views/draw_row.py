"""A draw as a row of numbers, so that a batch of draws is one tensor and every sample takes the same steps.

The order of the colour jitter is a permutation per sample, which a batch cannot follow by branching. But brightness,
contrast and saturation are one formula, a blend of the image with black, with its mean gray or with its own gray. So
each sample carries three blends in its own order, and how many of them come before the turn of the hue.
"""

from synco_hub.data.views.view_draw import ViewDraw

# A blend is factor · image + (1 - factor) · (gray_share · gray + mean_share · mean of gray).
BLENDS = 3
DRAW_ROW = (
    "flip",
    *(f"{part}_{number}" for part in ("factor", "gray_share", "mean_share") for number in range(BLENDS)),
    "blends_before_hue",
    "hue",
    "grayscale",
    "blur_sigma",
    "solarize",
)
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = range(4)


def draw_row(draw: ViewDraw) -> list[float]:
    """Everything about a view but its crop.

    Args:
        draw: As `draw_view` gives it.

    Returns:
        One number for each name of `DRAW_ROW`: yes is 1, no is 0, a `blur_sigma` of 0 is no blur, a factor of 1 is no
        blend.
    """
    factors, gray_shares, mean_shares = [1.0] * BLENDS, [0.0] * BLENDS, [0.0] * BLENDS
    blends_before_hue, hue, number = BLENDS, 0.0, 0
    jitter = draw.color_jitter
    for step in () if jitter is None else jitter.order:
        assert jitter is not None
        if step == _HUE:
            blends_before_hue, hue = number, jitter.hue
            continue
        factors[number] = (jitter.brightness, jitter.contrast, jitter.saturation)[step]
        gray_shares[number] = float(step == _SATURATION)
        mean_shares[number] = float(step == _CONTRAST)
        number += 1
    return [
        float(draw.flip),
        *factors,
        *gray_shares,
        *mean_shares,
        float(blends_before_hue),
        hue,
        float(draw.grayscale),
        draw.blur_sigma or 0.0,
        float(draw.solarize),
    ]
