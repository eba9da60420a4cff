"""Files and folders for tests."""


def touch(path, content=b"image"):
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
