"""Size of images: one number for a square, or height and width."""

Size = int | tuple[int, int]  # pixels


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def describe_size(size: Size) -> str:
    """Return a size as height x width, ``"48x64"``."""
    return "x".join(map(str, height_width(size)))


def parse_size(text: str) -> tuple[int, int]:
    """Return height and width of ``"64"`` or ``"48x96"``; raise a ``ValueError`` for another text."""
    numbers = [int(part) for part in text.lower().split("x")]
    if len(numbers) not in (1, 2):
        raise ValueError(f"size {text!r} is neither a number nor HEIGHTxWIDTH")
    return (numbers[0], numbers[-1])
