"""`learn`: parts by name, and what they bring; `reconstruct`: pictures by what was learned."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deqbilevel import data, losses, pictures, recipes, search, solvers
from deqbilevel.commands import command, learn, reconstruct, running
from deqbilevel.commands.learn import Learn, main, parts, report
from deqbilevel.commands.reconstruct import Reconstruct
from deqbilevel.commands.records import Log
from deqbilevel.operators import OPERATORS
from deqbilevel.recipes import Learned, Recipe
from deqbilevel.regularizers import REGULARIZERS

SMALL: dict[str, Any] = {"batch_size": 20, "epochs": 2}
SMALL |= {"final_evaluations": 40, "lower_evaluations": 20, "adjoint_evaluations": 20}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digits of half their size, as data that a user brings."""
    digits = data.load("sample", train_size=40, test_size=10)
    parts = {name: getattr(digits, name).reshape(-1, 28, 28) for name in ("train", "test")}
    halves = {k: x.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)) for k, x in parts.items()}
    path = tmp_path_factory.mktemp("data") / "digits.npz"
    np.savez(path, **halves, range=np.array([-1.0, 1.0]))
    return f"arrays:{path}"


def config(*words: str, **options: Any) -> Any:
    """What a command line of such words means, with options beside."""
    kind = parts.with_options(Learn, words)
    found, _ = command.parse(kind, words)
    return dataclasses.replace(found, **(SMALL | options))


COUNTS = ("--fidelity", "poisson")
SOBOL = {"search": "sobol"}
FILTERS = ("--regularizer.filters", "3", "3", "3", "--regularizer.eps", "0.05")


@pytest.fixture(scope="module")
def run(small: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any]]:
    """A run of filters for inpainting, and its numbers."""
    out = tmp_path_factory.mktemp("learn") / "run"
    chosen = config("--operator", "row_mask", *FILTERS, data=small, out=out)
    return chosen, main(chosen)


def test_filters_are_learned_for_inpainting(run: tuple[Any, dict[str, Any]]) -> None:
    chosen, numbers = run
    assert numbers["psnr_db_learned"] > numbers["psnr_db_start"] > numbers["psnr_db_adjoint"]
    assert numbers["test_loss"] < numbers["test_loss_adjoint"]
    there = {path.name for path in chosen.out.iterdir()}
    assert there >= {"learned.npz", "reconstructions.png", "losses.png", "kernels.png"}
    stored = json.loads((chosen.out / "result.json").read_text())
    assert stored["psnr_db_learned"] == numbers["psnr_db_learned"]
    for name in ("reconstructions", "kernels"):
        assert np.std(iio.imread(chosen.out / f"{name}.png")) > 5


def test_a_run_is_shown_again_and_made_longer(run: tuple[Any, dict[str, Any]]) -> None:
    chosen, numbers = run
    again = main(chosen)
    assert {k: again[k] for k in ("test_loss", "seconds")} == {
        k: numbers[k] for k in ("test_loss", "seconds")
    }
    longer = main(dataclasses.replace(chosen, epochs=3))
    assert longer["epochs"] == 3 and longer["test_loss"] != numbers["test_loss"]
    with pytest.raises(SystemExit, match=r"epochs.*may grow where it began with --schedule const"):
        main(dataclasses.replace(chosen, epochs=4, schedule="cosine"))


def test_what_was_learned_is_loaded_in_a_line(run: tuple[Any, dict[str, Any]]) -> None:
    learned = recipes.load(run[0].out)
    assert (learned.recipe.operator, learned.shape, learned.range) == (
        "row_mask",
        (14, 14),
        (-1.0, 1.0),
    )
    model = learned.model((15, 40))
    truth = jnp.zeros((1, 600)).at[0, 200:300].set(1.0)
    f = model.measure(learned.params, truth, jax.random.key(0))
    u, info = model.reconstruct(
        solvers.optimized_gradient(tolerance=1e-4, max_evaluations=400), learned.params, f
    )
    assert info.converged and u.shape == truth.shape


def test_pictures_are_reconstructed_at_their_own_sizes(
    run: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for name, shape in {"a": (30, 20), "b/c": (12, 40)}.items():
        path = tmp_path / "in" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(path, (255 * rng.random(shape)).astype(np.uint8))
    options = {"apply": run[0].out, "data": f"images:{tmp_path / 'in'}", "out": tmp_path / "out"}
    numbers = main(config(**options))
    assert numbers["pictures"] == 2 and numbers["psnr_db"] > numbers["psnr_measured_db"]
    for name, shape in {"a": (30, 20), "b/c": (12, 40)}.items():
        found = iio.imread(tmp_path / "out" / "reconstructed" / f"{name}.png")
        assert found.dtype == np.uint16 and found.shape == shape
    truth = pictures.read_grey(tmp_path / "in" / "a.png").reshape(1, -1)
    stored = pictures.read_grey(tmp_path / "out" / "reconstructed" / "a.png").reshape(1, -1)
    rows = [json.loads(x) for x in (tmp_path / "out" / "pictures.jsonl").read_text().splitlines()]
    own = float(losses.psnr(*map(jnp.asarray, (stored, truth)), data_range=2.0)[0])
    [row] = [row for row in rows if row["picture"] == "a"]
    assert row["psnr_db"] == pytest.approx(own, abs=0.3)  # clipped to the range
    (tmp_path / "out" / "reconstructed" / "a.png").unlink()
    assert main(config(**options)) == numbers  # nothing is made again
    blind = main(config(**options | {"measured": True, "out": tmp_path / "blind"}))
    assert blind["psnr_db"] is None and not (tmp_path / "blind" / "measured").exists()


def test_pictures_are_adapted_to_and_stopped_at_the_noise(
    run: tuple[Any, dict[str, Any]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    iio.imwrite(tmp_path / "in" / "a.png", (255 * rng.random((16, 18))).astype(np.uint8))

    def numbers(name: str, **options: Any) -> Any:
        own = Reconstruct(
            tmp_path / "in", by=run[0].out, simulate=True, out=tmp_path / name, **options
        )
        return reconstruct.main(own)

    plain = numbers("plain")
    assert numbers("stopped", discrepancy=1e-9)["psnr_db"] != plain["psnr_db"]
    adapted = numbers("adapted", adapt=("discrepancy",), adapted=("beta",), discrepancy=1.0)
    assert np.isfinite(adapted["psnr_db"]) and adapted["psnr_db"] != plain["psnr_db"]
    for options, said in (
        ({"adapt": ("ssim",)}, "--adapt ssim: needs the truth; take one of the noise"),
        ({"adapt": ("whiteness",), "adapted": ("colour",)}, "--adapted: no colour; has"),
        ({"adapted": ("beta_0",)}, "--adapted beta_0: has no effect here, only with --adapt"),
    ):
        with pytest.raises(SystemExit, match=said):
            numbers("refused", **options)


@pytest.mark.parametrize(
    "words",
    [
        ("--regularizer", "denoiser", "--regularizer.channels", "2", "--regularizer.layers", "2"),
        ("--operator", "random_matrix", "--operator.rate", "0.3", *FILTERS),
        ("--operator", "fourier", "--finer", "2", *FILTERS),
        (*FILTERS, "--algorithm", "aid"),
        (*FILTERS, "--fresh-noise", "--loss", "half_squared_error"),
        (
            *(*FILTERS, *COUNTS, "--fidelity.peak", "50", "--nonnegative", "--range", "0..1"),
            *("--loss", "noise_corridor"),
        ),
    ],
    ids=["deq", "other size", "complex", "algorithm", "fresh", "counts"],
)
def test_other_problems_run(words: tuple[str, ...], small: str, tmp_path: Path) -> None:
    numbers = main(config(*words, epochs=1, data=small, out=tmp_path / "run"))
    assert np.isfinite(numbers["test_loss"]) and not numbers["diverged"]
    assert ("psnr_db_measured" in numbers) == (words[1] not in ("random_matrix", "fourier"))


def test_some_images_are_learned_from_without_their_truth(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.update(train=np.asarray(arguments[4][0]), f=np.asarray(options["f"]))
        return course(*arguments, **options)

    course = running.course
    monkeypatch.setattr(running, "course", watched)
    blind = {"clean": 3, "noisy_loss": ("discrepancy:weight=0.01",), "noise": 0.3}
    numbers = main(config(*FILTERS, data=small, out=tmp_path / "run", **blind))
    assert np.isfinite(seen["train"][:3]).all() and np.isnan(seen["train"][3:]).all()
    assert seen["f"].shape == seen["train"].shape and np.isfinite(seen["f"]).all()
    assert not numbers["diverged"]
    assert numbers["test_loss"] < numbers["test_loss_initial"] < numbers["test_loss_measurement"]


def test_whole_pictures_and_phantoms_are_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That these images reach a model of their shape; runs are tested above."""

    def shapes(config: Any, images: Any, problem: Any, out: Path) -> dict[str, Any]:
        return {"shapes": (images.shape, problem[1].shape)}

    monkeypatch.setattr(learn, "_run", shapes)
    rng = np.random.default_rng(0)
    for i in range(3):
        path = tmp_path / "in" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        iio.imwrite(path, rng.integers(0, 2**16, (14, 17), dtype=np.uint16))
    size = {"train_size": 2, "test_size": 1, "batch_size": 1, "epochs": 1}
    for spec, how, shape in (
        (f"images:{tmp_path / 'in'}", {"whole": True}, (14, 17)),
        (f"images:{tmp_path / 'in'}", {"shape": (14, 14)}, (14, 14)),
        ("phantoms:ellipses", {"shape": (14, 14)}, (14, 14)),
    ):
        out = tmp_path / f"run-{spec[:8]}-{shape[1]}"
        found = main(config(*FILTERS, data=spec, out=out, **size, **how))
        assert found["shapes"] == (shape, shape)


def test_an_operator_is_learned(small: str, tmp_path: Path) -> None:
    words = ("--operator", "diagonal_blur", *FILTERS, "--learn", "filters", "beta", "K")
    main(config(*words, epochs=1, data=small, out=tmp_path / "run"))
    learned = recipes.load(tmp_path / "run")
    assert np.any(learned.params["K"].weights != 0.2)


def test_a_mask_of_a_file_is_taken(small: str, tmp_path: Path) -> None:
    file, mask = tmp_path / "mask.npy", np.random.default_rng(0).random((14, 14)) < 0.5
    np.save(file, mask)
    chosen = config("--operator", "fourier", "--operator.mask", str(file), *FILTERS, data=small)
    recipe, *_ = learn.posed(chosen, learn.images_of(chosen))
    K: Any = Recipe(**json.loads(json.dumps(recipe._asdict()))).model((14, 14)).K
    np.testing.assert_array_equal(np.fft.fftshift(K.mask.reshape(14, 14)), mask)
    assert parts.files_of(chosen) == {"--operator.mask": file}
    assert parts.files_of(config("--operator", "fourier")) == {}


def test_filters_of_one_task_start_another(
    run: tuple[Any, dict[str, Any]], small: str, tmp_path: Path
) -> None:
    options = {"epochs": 0, "initial": run[0].out, "data": small}
    numbers = main(config(*FILTERS, **options, out=tmp_path / "run"))
    learned, before = recipes.load(tmp_path / "run").params, recipes.load(run[0].out).params
    np.testing.assert_array_equal(learned["filters"], before["filters"])
    assert numbers["psnr_db_learned"] == numbers["psnr_db_start"]
    with pytest.raises(SystemExit, match=r"learned with eps 0.05, and --regularizer.eps is 0.2"):
        main(config("--regularizer.eps", "0.2", **options, out=tmp_path / "other"))


def test_what_ships_is_learned_further(small: str) -> None:
    words = ("--regularizer", "weakly_convex_ridge", "--regularizer.channels", "4", "8", "32")
    chosen = config(*words, data=small, initial=Path("weakly-convex-ridge"))
    _, model, _, params, *_ = learn.posed(chosen, learn.images_of(chosen))
    shipped = recipes.load("weakly-convex-ridge").params
    np.testing.assert_array_equal(params["bend"], shipped["bend"])
    assert parts.read_by(chosen, model)["sources"]["--initial"].is_file()


def test_scalars_are_searched_for_and_a_search_goes_on(
    small: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of learning: records that are there are not made again after an interruption."""
    over = ("gamma=1e-3..10:log", "beta_0=-8..1")
    options = {**SOBOL, "search_over": over, "candidates": 5, "epochs": 0, "data": small}
    chosen = config("--operator", "row_mask", *FILTERS, **options, out=tmp_path / "run")
    path, append = tmp_path / "run" / "search.jsonl", Log.append

    def killed(log: Log, record: Any) -> None:
        """In the middle of the second record."""
        append(log, record)
        if log.path == path and len(log.read()) == 2:
            path.write_text(path.read_text()[:-20])
            raise KeyboardInterrupt

    monkeypatch.setattr(report, "draw", lambda *arguments, **options: True)
    monkeypatch.setitem(search.SEARCHES, "sobol", partial(search.sobol, batch=2))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Log, "append", killed)
        main(chosen)
    before = path.read_text().splitlines()
    numbers = main(chosen)
    after = path.read_text().splitlines()
    assert len(before) == 2 and after[0] == before[0]
    records = [json.loads(line) for line in after]
    points = np.concatenate([record["points"] for record in records])
    request, _ = (whole := search.sobol(2, count=5)).ask(whole.init())
    assert request is not None
    np.testing.assert_array_equal(points, request.points)
    assert numbers["search_candidates"] == 5
    assert numbers["search_loss"] == search.best(records)[1] < numbers["search_loss_before"]
    params = recipes.load(tmp_path / "run").params
    for name in ("gamma", "beta_0"):
        np.testing.assert_allclose(params[name], numbers[f"searched_{name}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "options", "said"),
    [
        (("--regularizer", "denoiser"), {"hypergradient": "minimiser"}, "needs a symmetric dG/du"),
        (("--regularizer", "affine"), {"lower": "optimized_gradient"}, "an energy"),
        (("--regularizer", "affine"), {"algorithm": "aid"}, "minimises no lower-level cost"),
        (("--regularizer.filters", "3", "50", "50"), {}, "larger than the image of 14x14"),
        (("--operator", "random_matrix", "--operator.rate", "2"), {}, "rate=2.0: expected"),
        (("--operator", "matrix"), {}, "file: none is given; expected one of a matrix"),
        (("--operator", "fourier", "--operator.mask", "no.npy"), {}, "no.npy: there is no such"),
        ((), {"learn": ("colour",)}, "learned=.*colour"),
        ((), {"optimiser": "lbfgs"}, "--batch-size 20: a line search needs"),
        ((), {"learn": ("K",), "sampling": True, "noise": 200.0}, "--noise 200"),
        ((), {"sampling": True}, "K is not learned"),
        ((), {"finer": 2}, "operator identity: of no other data on a finer grid"),
        ((), {"finer": 2, "sampling": True, "learn": ("K",)}, "leave out one of them"),
        ((), {"lower": "newton"}, "puts its Jacobian together"),
        (COUNTS, {}, "--fidelity poisson --range -1..1: .*take --range 0..1"),
        (COUNTS, {"noise": 0.2}, "--noise 0.2: has no effect here, only with a --fidelity whose"),
        ((), {"nonnegative": True}, "--nonnegative --range -1..1: .*take --range 0..1"),
        ((), {"clean": 40}, "--clean 40: of 40 training images; expected fewer"),
        ((), {"clean": 4, "noisy_loss": ("huber",)}, "--noisy-loss huber: needs the truth; take"),
        ((), {"clean": 4, "fresh_noise": True}, "--clean 4: has no effect here, only with meas"),
        ((), {"noisy_loss": ("whiteness",)}, "--noisy-loss whiteness: has no effect here, only"),
        ((), {"clean": 4, "noise": 0.0}, "--loss monte_carlo_sure --noise 0: the loss is of the"),
        ((), {"search": "sobol"}, "--search sobol: over what"),
        ((), SOBOL | {"search_over": ("depth=1..2",)}, "--search-over 'depth'"),
        ((), SOBOL | {"search_over": ("gamma=2..1",)}, "gamma=2..1: expected each name once"),
        ((), SOBOL | {"search_over": ("gamma=1-2",)}, "expected gamma=LOW..HIGH or"),
        ((), {"candidates": 3}, "--candidates 3: has no effect here, only with --search"),
        ((), {"measured": True}, "--measured True: has no effect here, only with --apply"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(
    words: tuple[str, ...], options: dict[str, Any], said: str, small: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=f"error: .*{said}"):
        main(config(*words, data=small, out=tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", parts.PARTS)
def test_every_part_brings_its_options(part: str) -> None:
    for name in parts.PARTS[part]:
        words = (f"--{part}", name)
        found = {field.name for field in dataclasses.fields(parts.with_options(Learn, words))}
        assert {f for f, _, _ in parts.options_of(part, name)} <= found
    assert ("operator__size", int, 5) in parts.options_of("operator", "diagonal_blur")
    assert not [f for f, *_ in parts.options_of("operator", "diagonal_blur_zero") if "bound" in f]
    assert ("fidelity__peak", float, 10.0) in parts.options_of("fidelity", "poisson")
    assert set(parts.PARTS["operator"]) == set(OPERATORS)
    assert set(parts.PARTS["regularizer"]) == set(REGULARIZERS)


# ---- recipes


@pytest.mark.parametrize("name", REGULARIZERS)
def test_recipes_keep_every_regulariser(name: str, tmp_path: Path) -> None:
    options = {"fidelity": "poisson", "fidelity_options": {"peak": 20.0}, "nonnegative": True}
    recipe = Recipe(regularizer=name, learns_operator=True, operator="row_mask", **options)
    shape = (6, 7)
    model = recipe.model(shape)
    params = recipe.init(model, jax.random.key(2)) | {"tau": jnp.asarray(0.3)}
    about = {"made": "here"}
    recipes.save(tmp_path / "x.npz", Learned(recipe, shape, (0.0, 1.0), params, about))
    found = recipes.load(tmp_path / "x.npz")
    assert found._replace(params={}) == Learned(recipe, shape, (0.0, 1.0), {}, about)
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, found.params, params)
    if name == "dense":
        with pytest.raises(ValueError, match="other weights there"):
            found.model((6, 8))


def test_files_that_hold_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not there; expected the folder of a run"):
        recipes.load(tmp_path)
    path = tmp_path / "learned.npz"
    np.savez(path, about=np.array("{}"))
    with pytest.raises(ValueError, match=r"learned\.npz: not what deqbilevel wrote"):
        recipes.load(tmp_path)
    recipe = Recipe()
    params = recipe.init(recipe.model((8, 8)), jax.random.key(0))
    with pytest.raises(ValueError, match="holds values that are not finite"):
        bad = params | {"beta": params["beta"] + jnp.nan}
        recipes.save(path, Learned(recipe, (8, 8), (0.0, 1.0), bad, {}))
    with pytest.raises(ValueError, match=r"expected .* and single numbers"):
        recipes.save(path, Learned(recipe, (8, 8), (0.0, 1.0), {"A": jnp.ones((2, 2))}, {}))
    header = json.dumps({"recipe": Recipe("nothing")._asdict(), "shape": (8, 8), "range": (0, 1)})
    np.savez(path, about=np.array(header))
    with pytest.raises(ValueError, match="operator 'nothing': expected one of identity"):
        recipes.load(path)
