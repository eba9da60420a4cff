"""Files and folders for tests."""

import io


def touch(path, content=b"image"):
    """Write a file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def encoded(image, kind="PNG", **options):
    """Bytes of an image of Pillow, or of an array, as a file of a format."""
    from PIL import Image  # the tests of operators run without Pillow

    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def lay(folder, files):
    """Write files by their names within a folder."""
    for name, content in files.items():
        touch(folder / name, content)
    return folder


def tree(folder):
    """The content of all files of a folder, by their names within it."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
