"""What happens to a photograph on its way through the world: cropped, turned, tinted, compressed.

Everything is drawn from one ``random.Random``, so that a seed is a query.
"""

from io import BytesIO
from math import sqrt
from random import Random

from PIL import Image, ImageEnhance, ImageStat

CROP_SHARE = (0.6, 0.8)  # of the area
CROP_STRETCH = (0.9, 1.1)  # of width over height
TURN_DEGREES = 20
COLOUR_FACTOR = (0.7, 1.4)  # of brightness, contrast and saturation
TINT = (0.9, 1.1)  # of red, green and blue
JPEG_QUALITY = (15, 50)
DESCRIPTION = (
    f"cropped to {100 * CROP_SHARE[0]:.0f}-{100 * CROP_SHARE[1]:.0f} % of the area, turned by up "
    f"to {TURN_DEGREES} degrees, colours changed, JPEG quality {JPEG_QUALITY[0]}-{JPEG_QUALITY[1]}"
)


def distort(image: Image.Image, random: Random) -> Image.Image:
    """A copy of an RGB image, turned, cropped, tinted and JPEG-compressed by random amounts."""
    return compress(tint(crop(turn(image, random), random), random), random)


def turn(image: Image.Image, random: Random) -> Image.Image:
    mean = ImageStat.Stat(image).mean
    return image.rotate(
        random.uniform(-TURN_DEGREES, TURN_DEGREES),
        Image.Resampling.BICUBIC,
        fillcolor=tuple(round(channel) for channel in mean),  # black corners would be a landmark
    )


def crop(image: Image.Image, random: Random) -> Image.Image:
    share, stretch = random.uniform(*CROP_SHARE), random.uniform(*CROP_STRETCH)
    width = max(1, round(image.width * sqrt(share * stretch)))
    height = max(1, round(image.height * sqrt(share / stretch)))
    left = random.randint(0, image.width - width)
    top = random.randint(0, image.height - height)
    return image.crop((left, top, left + width, top + height))


def tint(image: Image.Image, random: Random) -> Image.Image:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(random.uniform(*COLOUR_FACTOR))
    factors = [random.uniform(*TINT) for _ in range(3)]
    return image.point([min(255, round(level * f)) for f in factors for level in range(256)])


def compress(image: Image.Image, random: Random) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=random.randint(*JPEG_QUALITY))
    return Image.open(buffer).convert("RGB")
