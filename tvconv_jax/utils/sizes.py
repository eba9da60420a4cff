"""Size of images: one number for a square, or height and width."""

Size = int | tuple[int, int]  # pixels


def height_width(size: Size) -> tuple[int, int]:
    """Return height and width of a size."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def describe_size(size: Size) -> str:
    """Return a size as height x width, ``"48x64"``."""
    return "x".join(map(str, height_width(size)))
