"""Verification ``.bin`` files: what others write is read, what would execute is refused."""

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvconv_jax.data.formats.bin_file import BinFaces, read_bin, write_bin
from tvconv_jax.utils.errors import UserError

IMAGES, SAME = [b"\xff\xd8one", b"\xff\xd8two", b"\xff\xd8three\n'", b"\0"], [True, False]


def save(path, data):
    path.write_bytes(data)
    return path


def test_ours_come_back(tmp_path):
    write_bin(tmp_path / "a.bin", IMAGES, SAME)
    images, same = read_bin(tmp_path / "a.bin")
    assert images == IMAGES and same.tolist() == SAME
    assert pickle.loads((tmp_path / "a.bin").read_bytes()) == (IMAGES, SAME)  # any pickle reader takes it
    with pytest.raises(UserError, match="exists and is not written over"):
        write_bin(tmp_path / "a.bin", IMAGES, SAME)
    with pytest.raises(ValueError, match="4 images for 1 flags"):
        write_bin(tmp_path / "b.bin", IMAGES, [True])


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [bytes, "flat", "column", "raw"])
def test_every_protocol_and_kind_of_image(tmp_path, protocol, kind):
    raw = [np.full((4, 5, 3), i, np.uint8) for i in range(4)]
    arrays = {
        bytes: IMAGES,
        "flat": [np.frombuffer(image, np.uint8) for image in IMAGES],
        "column": [np.frombuffer(image, np.uint8)[:, None] for image in IMAGES],
        "raw": raw,
    }[kind]
    path = save(tmp_path / "a.bin", pickle.dumps([arrays, np.array(SAME)], protocol=protocol))
    images, same = read_bin(path)
    assert same.tolist() == SAME
    if kind == "raw":
        np.testing.assert_array_equal(images, raw)
    else:
        assert images == IMAGES


def test_python_2_wrote_strings_for_bytes(tmp_path):
    """Its protocol 2 (SHORT_BINSTRING) and its protocol 0 (a quoted line)."""
    two = b"\x80\x02](U\x05\xff\xd8oneU\x05\xff\xd8twoe]\x88a\x86."
    assert read_bin(save(tmp_path / "2.bin", two))[0] == IMAGES[:2]
    zero = b"((lp0\nS'\\xff\\xd8one'\np1\naS'\\xff\\xd8two'\naI01\n(ltp2\n."
    with pytest.raises(UserError, match="must be"):
        read_bin(save(tmp_path / "0.bin", zero))
    zero = b"((lp0\nS'\\xff\\xd8one'\np1\naS'\\xff\\xd8two'\na(lI01\natp2\n."
    images, same = read_bin(save(tmp_path / "00.bin", zero))
    assert images == IMAGES[:2] and same.tolist() == [True]


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth):
    value = [b"x"]
    for _ in range(depth):
        value = [value, value]
    return value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("evil", "words"),
    [
        (Call(os.system, "touch {canary}"), "it holds (posix|nt).system. Nothing of it was executed"),
        (Call(eval, "open('{canary}', 'w')"), "it holds (builtins|__builtin__).eval"),
        (Call(io.open, "{canary}", "w"), "open"),
        (np.array([b"x", None], object), "an array of dtype 'O8'"),
        (np.zeros(2, [("a", "u1"), ("b", "f4")]), "an array of dtype 'V5'"),
        (Call(np.zeros, 10**12), "zeros"),
        ({"a": 1}, "an image is a dictionary"),
        ({1, 2}, "it holds (an object that only code could make|(builtins|__builtin__).set)"),
    ],
)
def test_what_would_execute_is_refused_by_name(tmp_path, evil, words, protocol):
    canary = tmp_path / "canary"
    if isinstance(evil, Call):
        function, arguments = evil.call
        texts = (a.format(canary=canary) if isinstance(a, str) else a for a in arguments)
        evil = Call(function, *texts)
    path = save(tmp_path / "a.bin", pickle.dumps(([evil, b"x"], [True]), protocol=protocol))
    with pytest.raises(UserError, match=words):
        read_bin(path)
    assert not canary.exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps((nested(60), [True])),  # 2**60 items, if anybody unfolded them
        b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo index that lets Python's unpickler take 32 GiB
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",  # a string of 2**63 bytes
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7ft\x85R.",
        b"(" * 100_000 + b"l" * 100_000 + b".",
        b"\x80\x02](X\xe8\x03\0\0" + b"a" * 1000 + b"q\0" + b"c_codecs\nencode\nh\0\x85R" * 500 + b"e].",
        b"I" + b"9" * 100_000 + b"\n.",
        b"",
        b"\xff\xd8\xff\xe0 a picture",
        pickle.dumps((IMAGES, [True])),
        pickle.dumps((IMAGES, [2, 0])),
        pickle.dumps(([np.zeros((2, 2))] * 2, [True])),
        pickle.dumps(IMAGES),
    ],
)
def test_bombs_and_other_things_are_one_line(tmp_path, data):
    with pytest.raises(UserError) as error:
        read_bin(save(tmp_path / "a.bin", data))
    assert str(tmp_path / "a.bin") in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("image", [IMAGES[0], np.frombuffer(IMAGES[0], np.uint8), np.zeros((50, 50, 3), np.uint8)])
def test_an_image_of_many_pairs_is_read_once(tmp_path, image):
    path = save(tmp_path / "a.bin", pickle.dumps(([image] * 1000, [True] * 500)))
    assert len({id(image) for image in read_bin(path)[0]}) == 1
    faces = BinFaces(path)
    assert faces[0]["image"] is faces[999]["image"]


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"none.bin cannot be read \(No such file"):
        read_bin(tmp_path / "none.bin")


RAW = [np.full((4, 5, 3), i, np.uint8) for i in range(4)]


@pytest.mark.parametrize(
    "value",
    [
        (RAW, [1.0, 0.0]),
        (RAW, np.array([1.0, 0.0])),
        (RAW, np.array([[True], [False]])),
        (RAW, [np.bool_(True), np.bool_(False)]),
        (RAW, [np.float32(1), np.int64(0)]),
        (RAW, tuple(SAME)),
        (tuple(RAW), SAME),
        (np.stack(RAW), SAME),
        {"bins": RAW, "issame": SAME},
        {b"images": RAW, b"labels": SAME, b"version": 2},
        {"imgs": np.stack(RAW), "issame_list": [1.0, 0.0]},
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_what_can_only_be_meant_in_one_way_is_taken(tmp_path, value, protocol):
    images, same = read_bin(save(tmp_path / "a.bin", pickle.dumps(value, protocol)))
    np.testing.assert_array_equal(images, RAW)
    assert same.tolist() == SAME


def zipped(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


SECRET = b"secret-bytes-of-the-file"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (zipped(lambda file: np.savez(file, a=np.zeros(3))), r"it is a NumPy archive \(.npz\)"),
        (b"<!DOCTYPE html><html>Quota exceeded</html>", "it is an HTML page"),
        (b'{"a": 1}', "it is a JSON file"),
        (b"\xff\xd8\xff\xe0 a picture", "it is a JPEG image"),
        (SECRET * 9, "it is a text file"),
        (b"\x80\x02" + SECRET, "it holds a damaged pickle; copy or download it again"),
        (b"\x80\x02I" + SECRET + b"\n.", "it holds a damaged pickle"),
        (
            b"\x80\x02c" + SECRET + b" x\n!\n.",
            "it holds something that only code could make. Nothing of it was executed",
        ),
        (pickle.dumps({"bins": RAW}), "or a dictionary with one of bins, images, .* and one of issame,"),
        (pickle.dumps((RAW, SAME, RAW)), "it holds a tuple of 3; it must be"),
        (pickle.dumps((RAW, {"a": 1})), "its flags are a dictionary"),
        (pickle.dumps((RAW, [1, 2])), "its flags are not all True or False, or 1 or 0, but one is 2"),
        (pickle.dumps((RAW, [0.5, 1.0])), "one is 0.5"),
        (pickle.dumps((RAW, [SECRET, 1])), "one is bytes"),
        (pickle.dumps((SECRET, SAME)), "its images are bytes"),
        (pickle.dumps(([SECRET.decode()] * 4, SAME)), "an image is a text"),
        (pickle.dumps(([np.zeros((2, 2, 3), np.float32)] * 4, SAME)), r"an array float32 \[2, 2, 3\]"),
        (pickle.dumps((np.zeros((4, 3, 8, 8), np.uint8), SAME)), "its images are an array"),
        (pickle.dumps(([np.zeros((0, 5, 3), np.uint8)] * 4, SAME)), r"an array uint8 \[0, 5, 3\]"),
        (pickle.dumps(SECRET), "it holds bytes; it must be"),
    ],
)
def test_another_thing_is_called_what_it_is_and_no_byte_of_it_is_shown(tmp_path, data, words):
    with pytest.raises(UserError, match=f"a.bin is not a verification .bin: .*{words}") as error:
        read_bin(save(tmp_path / "a.bin", data))
    text = str(error.value)
    assert text.isascii() and text.isprintable() and "opcode" not in text.lower() and SECRET.decode() not in text


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4), st.binary())
def test_any_bytes_are_read_or_refused(tmp_path_factory, protocol, changes, tail):
    arrays = [np.frombuffer(image, np.uint8) for image in IMAGES]
    data = bytearray(pickle.dumps((arrays, SAME), protocol=protocol))
    for at, value in changes:
        data[at % len(data)] = value
    path = save(tmp_path_factory.mktemp("bin") / "a.bin", bytes(data) + tail)
    try:
        images, same = read_bin(path)
        assert len(images) == 2 * len(same)
    except UserError as error:
        assert str(path) in str(error)
