"""Learned filters as files."""

import json
from importlib.resources import as_file, files

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import untyped

from deqbilevel import pretrained
from deqbilevel.disk import arrays
from deqbilevel.potentials import POTENTIALS, LogSum
from deqbilevel.pretrained import Learned
from deqbilevel.regularizers import convolutional


@pytest.mark.parametrize("name", POTENTIALS)
def test_what_is_written_is_read(name, tmp_path):
    p = convolutional.init(
        np.eye(3), beta_0=-2.0, beta=np.arange(3.0), phi=POTENTIALS[name](),
        basis=convolutional.cosines(2, 2),
    )  # fmt: skip
    pretrained.save(tmp_path / "x.npz", Learned(p, "zero", {"seed": 3}))
    found = pretrained.load(tmp_path / "x.npz")
    assert found.about["seed"] == 3 and found.boundary == "zero"
    assert type(found.params["phi"]) is type(POTENTIALS[name]())
    u = jnp.asarray(np.random.default_rng(0).standard_normal((2, 30)), jnp.float32)
    learned, original = (
        x.regularizer((5, 6)).energy(u, x.params) for x in (found, Learned(p, "zero", {}))
    )
    np.testing.assert_allclose(learned, original, rtol=1e-6)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.npz").write_text("filters")
    with pytest.raises(ValueError, match="cannot be read"):
        pretrained.load(tmp_path / "x.npz")
    with pytest.raises(ValueError, match="neither a file nor one of natural"):
        pretrained.load("bsds")


def test_natural_filters_ship():
    learned = pretrained.load("natural")
    assert convolutional.filters(learned.params).shape == (48, 7, 7)
    assert isinstance(learned.params["phi"], LogSum)
    assert learned.about["result"]["psnr_db"] > 28.5
    sums = convolutional.filters(learned.params).sum((1, 2))
    np.testing.assert_allclose(sums, 0, atol=1e-4)


@pytest.fixture(scope="module")
def natural():
    """What the shipped file holds."""
    with as_file(files(pretrained) / "natural.npz") as path:
        return arrays.read(path, pretrained.COMBINED)


def changed_about(natural, **changes):
    return {"about": np.array(json.dumps(json.loads(str(natural["about"])) | changes))}


SPOILT = {
    "no lam": (lambda x: {"lam": None}, "no lam; expected"),
    "no gamma": (lambda x: {"gamma": None}, "no gamma"),
    "no beta": (lambda x: {"beta": None}, "no beta"),
    "no basis": (lambda x: {"basis": None}, r"filters: of shape .*\[filters .48., rows, columns\]"),
    "no about": (lambda x: {"about": None}, "no about"),
    "extra": (lambda x: {"Z": x["beta"]}, "Z, which is unheard of"),
    "vector": (lambda x: {"beta_0": x["beta"]}, "beta_0: of shape .*a single value"),
    "short": (lambda x: {"beta": x["beta"][:5]}, r"of shape .*expected \[filters \("),
    "complex": (lambda x: {"filters": x["filters"] * 1j}, "filters: of type complex"),
    "integers": (lambda x: {"filters": x["filters"].astype(int)}, "filters: of type int"),
    "text": (lambda x: {"filters": x["filters"].astype(str)}, "filters: of type <U"),
    "nan": (lambda x: {"filters": x["filters"] * np.nan}, "filters: expected finite"),
    "another basis": (lambda x: {"basis": x["basis"][::-1]}, "a basis other than cosines"),
    "a smaller basis": (lambda x: {"basis": x["basis"][:, :5, :5]}, r"shape \(48, 5, 5\); its op"),
    "boundary": (
        lambda x: changed_about(x, boundary="moebius"),
        "boundary 'moebius': expected one",
    ),
    "potential": (lambda x: changed_about(x, potential="Log"), "potential 'Log': expected one"),
    "parameter": (lambda x: changed_about(x, potential_parameters={"eps": "a"}), "eps=a: expected"),
    "zero width": (lambda x: changed_about(x, potential_parameters={"eps": 0}), "eps=0: expected"),
    "parameters": (lambda x: changed_about(x, potential_parameters={"z": 1}), "wrote .*'z'"),
    "options": (lambda x: changed_about(x, options=[1]), "not filters that deqbilevel wrote"),
    "not JSON": (lambda x: {"about": np.array("{")}, "not filters that deqbilevel wrote"),
    "a list": (lambda x: {"about": np.array("[1]")}, "not filters that deqbilevel wrote"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_filters_are_named(name, natural, tmp_path):
    change, message = SPOILT[name]
    whole = {k: x for k, x in (natural | change(natural)).items() if x is not None}
    np.savez(tmp_path / "x.npz", **whole)
    with pytest.raises(ValueError, match=rf"x\.npz: .*{message}"):
        pretrained.load(tmp_path / "x.npz")


def test_filters_from_other_filters_keep_their_own_shape(natural, tmp_path):
    options = {"start": "natural", "filters": [4, 4, 2], "basis": None}
    np.savez(tmp_path / "x.npz", **natural | changed_about(natural, options=options))
    assert pretrained.load(tmp_path / "x.npz").params["filters"].shape == (48, 48)


def test_what_could_not_be_read_again_is_not_written(natural, tmp_path):
    learned = pretrained.load()
    for params, boundary, message in (
        ({"A": 1}, "zero", "params: no filters, beta, beta_0, phi"),
        (learned.params, "moebius", "boundary 'moebius'"),
        (learned.params | {"beta_0": jnp.nan}, "zero", "beta_0: holds values that are not finite"),
    ):
        with pytest.raises(ValueError, match=message):
            pretrained.save(tmp_path / "x.npz", Learned(params, boundary, {}))
    assert not (tmp_path / "x.npz").exists()
    with pytest.raises(ValueError, match="None: expected a name or a path"), untyped():
        pretrained.load(None)
