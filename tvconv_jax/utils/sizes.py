"""Size of images: one number for a square, or height and width."""

Size = int | tuple[int, int]  # pixels


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[-1])  # a flag gives 64 as (64,)


def describe_size(size: Size) -> str:
    """Return a size as height x width, ``"48x64"``."""
    return "x".join(map(str, height_width(size)))


def parse_size(text: str) -> Size:
    """Return the size of a text, ``"64"`` or height x width, ``"48x64"``; raise a ``ValueError`` for another."""
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(number.isascii() and number.isdecimal() for number in numbers):
        raise ValueError(f"{text!r} is not a size")
    height, width = int(numbers[0]), int(numbers[-1])
    return height if len(numbers) == 1 else (height, width)
