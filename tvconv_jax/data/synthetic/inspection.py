"""Synthetic boards under a fixed camera, drawn by this code alone; what is right in one place is a defect in another.

``LAYOUT`` says which part belongs to each place. Parts of one footprint share their pads, so a place looks the same
whichever part belongs there. Some places may stay empty. The parts of a board are drawn before its class is looked
at, and every defect only moves parts between places: counted without their places (kind, value and direction), they
say nothing about the class. The mask names the circuit of every part, which its place alone decides.
"""

import numpy as np

from tvconv_jax.data.synthetic.inspection_paint import PARTS, Place, draw_nuisances, paint
from tvconv_jax.utils.sizes import Size, height_width

CLASSES = ("ok", "swapped", "missing", "turned", "wrong")
CIRCUITS = ("supply", "signal", "control")
MASK_CLASSES = ("background", *CIRCUITS, "bolt")

# A letter is a row of PARTS: upper case where the part must be, lower case where it may be left out. A dash continues
# a part of two cells.
LAYOUT = (
    "O A L - c O",
    "E u P - A n",
    "l - C a R -",
    "o N r - E o",
    "a e U C p -",
    "O U c N e O",
)
PITCH = 0.28  # distance of two cells; the image spans [-1, 1]
CHUNK = 100  # images drawn at once, of equal classes; the first images of a long set are those of a short one
EMPTY = -1
LETTERS = tuple(PARTS)
# Parts that differ in direction or value alone.
DIRECTIONS = (("U", "N"), ("L", "R"))
VALUES = (("A", "E"),)


def _read_layout() -> list[tuple[Place, str]]:
    rows = [row.split() for row in LAYOUT]
    places = []
    for i, row in enumerate(rows):
        for j, letter in enumerate(row):
            if letter == "-":
                continue
            part = PARTS[letter.upper()]
            circuit = 1 + (i // 2 + j // 2) % len(CIRCUITS)
            mask = MASK_CLASSES.index("bolt") if part.kind == "bolt" else circuit
            x = (j - (len(row) - 1) / 2 + (0.5 if part.footprint == "long" else 0)) * PITCH
            y = (i - (len(rows) - 1) / 2) * PITCH
            places.append((Place(x=x, y=y, footprint=part.footprint, mask=mask), letter))
    return places


PLACES = tuple(place for place, _ in _read_layout())
RIGHT = np.array([LETTERS.index(letter.upper()) for _, letter in _read_layout()])  # the part that belongs to a place
OPTIONAL = np.array([letter.islower() for _, letter in _read_layout()])


def draw(
    count: int, *, seed: int = 0, size: Size = 64, shift: float = 0.01, rotation: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw boards, a fifth of them (but for rounding) of each class; the same arguments give the same bits.

    Args:
        count: Images to draw.
        seed: Seed of the set; sets of different seeds are independent.
        size: Image size in pixels, or (height, width).
        shift: Largest shift of a board in each direction, as a share of the image.
        rotation: Largest rotation of a board to each side, in degrees.

    Returns:
        Images ``uint8 [count, height, width, 3]``, RGB; labels ``int64 [count]``, of ``CLASSES``; masks
        ``uint8 [count, height, width]``, of ``MASK_CLASSES``.
    """
    height, width = height_width(size)
    images = np.empty((count, height, width, 3), np.uint8)
    masks = np.empty((count, height, width), np.uint8)
    labels = np.empty(count, np.int64)
    for chunk, start in enumerate(range(0, count, CHUNK)):
        random = np.random.default_rng([seed, chunk])
        kept = slice(start, min(start + CHUNK, count))
        drawn = random.permutation(np.arange(CHUNK) % len(CLASSES))
        boards = np.stack([assemble(random, CLASSES[label]) for label in drawn])
        nuisances = draw_nuisances(random, boards.shape, shift=shift, rotation=rotation)
        n = kept.stop - kept.start
        labels[kept] = drawn[:n]
        nuisances = {name: values[:n] for name, values in nuisances.items()}
        images[kept], masks[kept] = paint(random, boards[:n], PLACES, nuisances, (height, width))
    return images, labels, masks


def assemble(random: np.random.Generator, label: str) -> np.ndarray:
    """Assemble a board of a class: for every place the row of ``PARTS`` in it or ``EMPTY``, ``int64 [places]``."""
    board = _assemble_right(random)
    if label == "swapped":
        _swap(random, board)
    elif label == "missing":
        _leave_out(random, board)
    elif label == "turned":
        _replace(random, board, DIRECTIONS)
    elif label == "wrong":
        _replace(random, board, VALUES)
    return board


def find_defects(board: np.ndarray) -> np.ndarray:
    """Return where a board ``[places]`` is not right: another part than belongs there, or none where one must be."""
    return np.where(board == EMPTY, ~OPTIONAL, board != RIGHT)


def _assemble_right(random: np.random.Generator) -> np.ndarray:
    """Fill all places but some optional ones, so that every defect is possible."""
    while True:
        board = RIGHT.copy()
        for part in range(len(LETTERS)):
            optional = random.permutation(np.flatnonzero(OPTIONAL & (RIGHT == part)))
            board[optional[: random.integers(len(optional) + 1)]] = EMPTY
        possible = (_replacements(board, DIRECTIONS), _replacements(board, VALUES), np.any(board == EMPTY))
        if all(possible):
            return board


def _swap(random: np.random.Generator, board: np.ndarray) -> None:
    """Exchange two parts of different kinds."""
    kinds = np.array([PARTS[letter].kind for letter in LETTERS])
    footprints = np.array([place.footprint for place in PLACES])
    first = random.choice(np.flatnonzero((board != EMPTY) & (footprints != "hole")))
    other = (board != EMPTY) & (footprints == footprints[first]) & (kinds[board] != kinds[board[first]])
    second = random.choice(np.flatnonzero(other))
    board[[first, second]] = board[[second, first]]


def _leave_out(random: np.random.Generator, board: np.ndarray) -> None:
    """Move a part from where it must be to an empty place where it may be."""
    filled = random.choice(np.flatnonzero(board == EMPTY))
    emptied = random.choice(np.flatnonzero(~OPTIONAL & (RIGHT == RIGHT[filled])))
    board[filled], board[emptied] = RIGHT[filled], EMPTY


def _replacements(board: np.ndarray, groups: tuple[tuple[str, str], ...]) -> list[tuple[int, int]]:
    """List (filled, emptied): an optional empty place, and an optional filled one of the other part in its group."""
    pairs = [(LETTERS.index(a), LETTERS.index(b)) for group in groups for a, b in (group, group[::-1])]
    return [
        (filled, emptied)
        for part, other in pairs
        for filled in np.flatnonzero((RIGHT == part) & (board == EMPTY))
        for emptied in np.flatnonzero(OPTIONAL & (board == other) & (RIGHT == other))
    ]


def _replace(random: np.random.Generator, board: np.ndarray, groups: tuple[tuple[str, str], ...]) -> None:
    """Put the other part of a group in one place; an optional place of each part changes with it, so counts stay."""
    filled, emptied = random.choice(_replacements(board, groups))
    part, other = RIGHT[filled], RIGHT[emptied]
    board[random.choice(np.flatnonzero(board == part))] = other
    board[filled], board[emptied] = part, EMPTY
