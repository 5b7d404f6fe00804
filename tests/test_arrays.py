"""Named arrays on disk: what a schema does not expect is refused before it is unpacked."""

import zipfile

import numpy as np
import pytest

from deqbilevel.disk import arrays
from deqbilevel.disk.arrays import Array

SCHEMA = {
    "A": Array(("kernels", "size", "size")),
    "C": Array(("kernels", "size", "size"), optional=True),
    "count": Array((), np.integer),
    "text": Array((), np.str_, optional=True),
}
GOOD = {"A": np.ones((2, 3, 3), np.float32), "count": np.asarray(4)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "x.npz"


def test_what_fits_is_read(path):
    whole = GOOD | {"C": np.ones((2, 3, 3), ">f8"), "text": np.asarray("about")}
    np.savez(path, allow_pickle=False, **whole)
    found = arrays.read(path, SCHEMA)
    assert found.keys() == whole.keys() and found["C"].dtype == np.float64
    assert found["count"] == 4 and found["text"] == "about"
    assert arrays.headers(path)["A"] == ((2, 3, 3), np.float32)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"A": None}, "no A; expected A, C, count, text"),
        ({"Z": np.ones(3)}, "Z, which is unheard of"),
        ({"A": np.ones((2, 3, 3), int)}, "A: of type int64; expected floating"),
        ({"A": np.ones((2, 3, 3), complex)}, "A: of type complex128"),
        ({"A": np.full((2, 3, 3), "a")}, "A: of type <U1"),
        ({"A": np.ones((2, 3, 3), bool)}, "A: of type bool"),
        ({"A": np.ones((2, 3, 3), np.longdouble)}, "A: of type float128"),
        ({"A": np.array([None])}, "A: of type object"),
        ({"A": np.zeros(3, [("x", "f4")])}, "A: of type "),
        ({"A": np.ones(3)}, r"A: of shape \(3,\); expected \[kernels, size, size\]"),
        ({"A": np.ones((2, 3, 4))}, "A: of shape"),
        ({"A": np.ones((0, 3, 3))}, "A: of shape"),
        ({"C": np.ones((2, 5, 5))}, r"C: of shape .*expected \[kernels \(2\), size \(3\), size"),
        ({"count": np.ones(1, int)}, "count: of shape .*expected a single value"),
        ({"A": np.full((2, 3, 3), np.nan)}, "A: expected finite"),
        ({"A": np.full((2, 3, 3), -np.inf)}, "A: expected finite"),
        ({"A": np.full((2, 3, 3), 1e39)}, "A: expected finite"),
    ],
)
def test_what_does_not_fit_is_named(change, words, path):
    whole = {name: x for name, x in (GOOD | change).items() if x is not None}
    np.savez(path, **whole)
    with pytest.raises(ValueError, match=f"x.npz: {words}"):
        arrays.read(path, SCHEMA)


def test_like_expects_the_same(path):
    np.savez(path, x=np.array([1, np.nan], np.float32))
    schema = {"x": arrays.like(np.zeros(2, np.float32))}
    with pytest.raises(ValueError, match="x: expected finite"):
        arrays.read(path, schema)
    arrays.read(path, {"x": schema["x"]._replace(finite=False)}, most_bytes=0)
    for other in (np.zeros(2), np.zeros(3, np.float32), np.zeros(2, np.int32)):
        with pytest.raises(ValueError, match=r"x: of (type|shape)"):
            arrays.read(path, {"x": arrays.like(other)})


def test_large_arrays_are_not_unpacked(path):
    np.savez_compressed(path, A=np.zeros((1000, 50, 50)), count=np.asarray(1))
    assert path.stat().st_size < 2e5
    with pytest.raises(ValueError, match="20000008 bytes of arrays; expected 1000000 at most"):
        arrays.read(path, SCHEMA, most_bytes=10**6)
    with zipfile.ZipFile(path) as file:
        header = file.read("A.npy")[:128].replace(b"(1000, 50, 50)", b"(10**9, 9, 9)" + b" ")
    for name, start in {"A.npy": header, "A": b"", "../A.npy": b"\x93NUMPY"}.items():
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(name, start)
        with pytest.raises(ValueError, match=r"x\.npz: "):
            arrays.read(path, SCHEMA)
    lying = header.replace(b"(10**9, 9, 9) ", b"(999999, 99,9)")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("A.npy", lying + bytes(80))
    with pytest.raises(ValueError, match="A: 208 bytes where float64"):
        arrays.read(path, SCHEMA)


def test_damaged_files_are_named(path):
    with pytest.raises(FileNotFoundError):
        arrays.read(path, SCHEMA)
    np.savez(path, **GOOD)
    whole = path.read_bytes()
    torn = [whole[:100], whole[: len(whole) // 2], b"", b"filters", whole[:200] + bytes(300)]
    damaged = bytearray(whole)
    damaged[150] ^= 255
    for content in (*torn, bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.npz: "):
            arrays.read(path, SCHEMA)
    with pytest.raises(ValueError, match="cannot be read"):
        arrays.read(path.parent, SCHEMA)


def test_an_array_without_a_name(tmp_path):
    """Told by what the file holds."""
    path, schema = tmp_path / "x.npz", {arrays.SINGLE: Array(("n", 3))}
    with path.open("wb") as file:
        np.save(file, np.arange(6.0, dtype=">f4").reshape(2, 3))
    found = arrays.read(path, schema)[arrays.SINGLE]
    assert arrays.headers(path) == {arrays.SINGLE: ((2, 3), np.dtype(">f4"))}
    assert found.dtype == np.float32 and found.tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ValueError, match=r"x\.npz: no A, count; expected A, C"):
        arrays.read(path, SCHEMA)
    whole = path.read_bytes()
    for content, says in {
        whole[:-1]: "array: 151 bytes where >f4 of shape .* has 152",
        whole + b"0": "array: 153 bytes where",
        whole[:20]: "cannot be read|EOF",
    }.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"x\.npz: ({says})"):
            arrays.read(path, schema)
    np.save(tmp_path / "o.npy", np.array([None]))
    with pytest.raises(ValueError, match=r"o\.npy: array: of type object; expected floating"):
        arrays.read(tmp_path / "o.npy", schema)
