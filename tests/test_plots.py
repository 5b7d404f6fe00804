"""The figures, on made-up results: what they say and draw against independent counts."""

from collections.abc import Iterator
from contextvars import copy_context
from itertools import combinations, product

import matplotlib
import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from deqbilevel import plots
from deqbilevel.commands import listing
from deqbilevel.commands.drawing import PDF, draw
from deqbilevel.plots import base, greys, paper, style
from deqbilevel.plots.paper_pictures import NAMES


@pytest.fixture(scope="module", autouse=True)
def real_figures(rough_figures: None) -> Iterator[None]:
    """As commands draw them."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(plots, "save", style.save)
        patched.setattr(style, "DPI", 200)
        yield


DIMS = ("task", "model", "noise", "tau", "gamma", "activation", "epoch")
PICTURE = ("task", "model", "noise")
CAPTION = "Made-up digits, 10 $ of train and test pictures, no training at all"
SHAPE = (4, 6)


def made_up(
    tasks=("denoising", "inpainting", "deblurring"),
    models=("bilevel", "deq"),
    noises=(0.01, 0.05, 0.1, 0.2),
    taus=(0.1, 1.0),
    gammas=(0.5,),
    activations=("identity", "relu", "softshrink"),
    epochs=4,
    pictures=6,
    picture=None,
    diverging=0.2,
):
    """A dataset of results; `picture` gives the pictures, of SHAPE by default."""
    rng = np.random.default_rng(0)
    coords = dict(
        zip(
            DIMS,
            (tasks, models, noises, taus, gammas, activations, range(epochs)),
            strict=True,
        )
    )
    coords = {name: list(values) for name, values in coords.items()}
    size = tuple(len(coords[name]) for name in DIMS)
    level = rng.uniform(0.02, 0.8, (*size[:-1], 1)) * np.arange(1, size[2] + 1)[:, *4 * [None]]
    loss = level / size[2] * (0.3 + np.exp(-0.2 * np.arange(epochs)))
    untrained = np.where(np.arange(epochs) == 0, np.nan, 1.0)
    diverged = rng.uniform(size=(*size[:-1], 1)) < diverging
    diverged = diverged & (np.arange(epochs) >= epochs // 2)
    speed = rng.lognormal(0, 0.4, (*size[:-1], 1))
    arrays = {
        "test_loss": np.where(diverged, np.nan, loss),
        "train_loss": np.where(diverged, np.nan, 0.9 * loss * untrained),
        "seconds": speed * untrained * rng.uniform(0.9, 1.1, size),
        "evaluation_seconds": np.broadcast_to(0.1, size),
        "diverged": diverged,
    }
    data = {name: (DIMS, values) for name, values in arrays.items()}
    if picture is None:
        picture = rng.uniform(-1, 1, (pictures, *SHAPE))
    rows = picture.reshape(len(picture), -1)
    data["truth"] = (("picture", "pixel"), rows)

    def noisy(*names):
        free = tuple(len(coords[name]) for name in names)
        noise = rng.normal(size=(*free, *rows.shape))
        return ((*names, "picture", "pixel"), np.clip(rows + 0.2 * noise, -1, 1))

    data["measurement"] = noisy("task", "noise")
    data["reconstruction"] = noisy(*DIMS[:-1])
    data["measured_reconstruction"] = noisy(*DIMS[:-1])
    data["best_reconstruction"] = noisy(*PICTURE)
    data["best_measured_reconstruction"] = noisy(*PICTURE)
    for name, best in (("tau", taus), ("gamma", gammas), ("activation", activations)):
        data[f"best_{name}"] = (PICTURE, np.full(size[:3], best[0]))
    data["best_test_loss"] = (PICTURE, rng.uniform(0.01, 0.1, size[:3]))
    known = rng.uniform(0.1, 0.6, (len(tasks), len(noises), 2))
    data["baseline_loss"] = (("task", "noise", "baseline"), known)
    coords["baseline"] = ["measurement f", "mean training image"]
    attrs = {"caption": CAPTION, "height": picture.shape[1], "width": picture.shape[2]}
    return xr.Dataset(data, coords, attrs)


def dead(results, **cell):
    """The same results with every run of the cell diverged, its last losses and best run NaN."""
    results = results.copy(deep=True)
    results["diverged"].loc[cell] = True
    names = ("test_loss", "best_reconstruction", "best_measured_reconstruction")
    for name in (*names, "best_tau", "best_gamma", "best_test_loss"):
        results[name].loc[cell] = np.nan
    return results


DEAD = {"task": "deblurring", "model": "deq"}
RESULTS = {
    "full": made_up(),
    "single": made_up(
        ["inpainting"], ["deq"], [0.05], [1.0], [0.5], ["relu"], pictures=1, diverging=0
    ),
    "dead": dead(made_up(), **DEAD),
    "nothing": dead(made_up(["deblurring"], ["deq"], [0.05], epochs=1), **DEAD),
}


@pytest.fixture(scope="module", params=RESULTS)
def results(request):
    return RESULTS[request.param]


def runs(results, task, model):
    """Per run of a cell: its test losses and whether it diverged, by plain indexing."""
    cell = results.sel(task=task, model=model)
    for index in np.ndindex(*(results.sizes[name] for name in DIMS[2:-1])):
        where = dict(zip(DIMS[2:-1], index, strict=True))
        run = cell.isel(where)
        yield run, bool(run.diverged.values.any())


def cells(results):
    return product(results.task.values.tolist(), results.model.values.tolist())


def texts(axes):
    return [text.get_text() for text in axes.texts]


def labels(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def caption_of(figure):
    return figure.get_supxlabel().replace("\n", " ")


@pytest.mark.parametrize("threshold", [0.5, 0.15])
def test_a_box_for_each_noise_level_and_the_runs_left_out_below(results, threshold):
    figure = plots.figure_1(results, threshold)
    tasks, noises = results.task.values.tolist(), results.noise.values.tolist()
    models = results.model.values.tolist()
    for (above, below), task in zip(panels_of(figure, len(tasks)), tasks, strict=True):
        filled, ended, diverged = [], [], []
        for noise, model in product(noises, models):
            found = [
                (run.test_loss.values[-1], bad)
                for run, bad in runs(results, task, model)
                if run.noise == noise
            ]
            kept = [loss for loss, bad in found if not bad and loss < threshold]
            filled += [(paper.COLOURS[model], np.median(kept))] if kept else []
            diverged.append(sum(bad for _, bad in found))
            ended.append(len(found) - len(kept) - diverged[-1])
        assert len(above.patches) == len(filled)
        for box, (colour, middle) in zip(above.patches, filled, strict=True):
            assert box.get_facecolor() == to_rgba(colour, 0.8)
            low, high = np.percentile(box.get_path().vertices[:, 1], [0, 100])
            assert low <= middle <= high
        heights = [bar.get_height() for bar in below.patches]
        assert heights[::2] == ended and heights[1::2] == diverged
        assert texts(above) == ([] if filled else ["no run remains"])
        labelled = [tick.get_text() for tick in below.get_xticklabels()]
        assert labelled == [f"{noise:g}" for noise in noises] and above.get_title("left") == task
    assert labels(figure) == [
        *(NAMES[model] for model in models),
        f"ended at {threshold:g} or above",
        "diverged",
    ]


def panels_of(figure, columns):
    return np.array(figure.axes).reshape(2, columns).T


def test_runs_that_do_not_exist_are_not_counted():
    results = RESULTS["full"].copy(deep=True)
    missing = {"task": "denoising", "tau": 0.1}
    results["test_loss"].loc[missing] = np.nan
    results["diverged"].loc[missing] = False
    drawn = []
    for given in (results, results.sel(tau=[1.0])):
        axes = plots.figure_1(given).axes[len(given.task)]
        drawn.append([bar.get_height() for bar in axes.patches])
    assert drawn[0] == drawn[1] and sum(drawn[0]) > 0


def test_the_course_of_the_run_that_ends_lowest_is_drawn(results):
    figure = plots.figure_5(results)
    noises, models = results.noise.values.tolist(), results.model.values.tolist()
    assert labels(figure) == [
        *(f"noise {noise:g}" for noise in noises),
        *(NAMES[model] for model in models),
        "measurement f",
        "best without learning",
    ]
    tasks = results.task.values.tolist()
    grid = np.array(figure.axes).reshape(2, len(tasks))
    for (task, column), split in product(zip(tasks, grid.T, strict=True), ("test", "train")):
        axes = column[0 if split == "test" else 1]
        assert column[0].get_title("left") == task and axes.get_yscale() == "log"
        lines = [line for line in axes.lines if line.get_linestyle() in ("-", "--")]
        levels = [line for line in axes.lines if line.get_linestyle() == ":"]
        lower = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "-."]
        assert len(lines) == len(noises) * len(models)
        assert len(levels) == (len(noises) if split == "test" else 0)
        losses = [results.baseline_loss.sel(task=task, noise=noise) for noise in noises]
        for known, line in zip(losses, levels, strict=False):
            assert line.get_ydata()[0] == float(known.sel(baseline="measurement f"))
        if levels:
            assert lower == [float(x.min()) for x in losses if x.min() < x[0]]
        colours = []
        for (noise, model), line in zip(product(noises, models), lines, strict=True):
            ended = [
                (run.test_loss.values[-1], run[f"{split}_loss"].values)
                for run, bad in runs(results, task, model)
                if not bad and run.noise == noise
            ]
            course = min(ended, key=lambda x: x[0])[1] if ended else np.nan
            np.testing.assert_array_equal(
                line.get_ydata(), np.broadcast_to(course, results.sizes["epoch"])
            )
            np.testing.assert_array_equal(line.get_xdata(), results.epoch)
            assert line.get_linestyle() == paper.LOOKS[model]["linestyle"]
            colours.append(tuple(line.get_color()))
        assert len(set(colours)) == len(noises)
    empty = results is RESULTS["nothing"]
    assert texts(figure.axes[0]) == (["no run remains"] if empty else [])


def test_the_course_that_is_drawn_is_no_envelope():
    """One run falls early, another ends lower: the course is that of the second."""
    results = made_up(["denoising"], ["deq"], [0.1], [0.1, 1.0], [0.5], ["relu"], diverging=0)
    early, late = [0.9, 0.2, 0.2, 0.2], [0.9, 0.8, 0.3, 0.1]
    results["test_loss"][:] = np.array([early, late]).reshape(results.test_loss.shape)
    assert plots.figure_5(results).axes[0].lines[0].get_ydata().tolist() == late


@pytest.mark.parametrize("cap", [None, 7.3])
def test_histogram_of_epochs_within_a_cap(results, cap):
    figure = plots.figure_6(results, cap)
    if results.sizes["epoch"] == 1:
        assert texts(figure.axes[0]) == ["no such run was timed"]
        assert "No such run was timed." in caption_of(figure)
        return
    timed = {
        cell: [
            np.mean(run.seconds.values[1:] + run.evaluation_seconds.values[1:])
            for run, bad in runs(results, *cell)
            if not bad and run.test_loss.values[-1] < 0.5
        ]
        for cell in cells(results)
    }
    cap = cap or 3600
    assert f"Epochs within {cap:g} s are extrapolated" in caption_of(figure)
    models = results.model.values.tolist()
    for task, axes in zip(results.task.values.tolist(), figure.axes, strict=True):
        bars = axes.patches
        assert len(bars) <= paper.HISTOGRAM_BINS * len(models)
        if len(models) == 1:
            assert [bar.get_height() for bar in bars] == [1]
            continue
        if not any(timed[task, model] for model in models):
            continue
        for side, (model, group) in enumerate(
            zip(models, np.split(np.array(bars), 2), strict=True)
        ):
            reached = np.floor(cap / np.array(timed[task, model]))
            width = round(group[1].get_x() - group[0].get_x())
            # side by side, two groups of bars fill the middle 0.8 of each bin
            edge = group[0].get_x() - width * (0.1 + 0.4 * side)
            assert edge % 1 == pytest.approx(0.5)
            bins = round(edge + 0.5) + width * np.arange(len(group))
            counts = [np.sum((reached >= low) & (reached < low + width)) for low in bins]
            assert [bar.get_height() for bar in group] == counts
            assert sum(counts) == len(reached)
            assert group[0].get_facecolor() == to_rgba(paper.COLOURS[model], 0.8)


def test_a_run_that_takes_a_whole_fraction_of_the_cap_reaches_it():
    results = RESULTS["single"].copy(deep=True)
    results["seconds"][..., 1:] = 0.1
    results["evaluation_seconds"][:] = 0.0
    (bar,) = plots.figure_6(results, 0.3).axes[0].patches
    assert bar.get_x() < 3 < bar.get_x() + bar.get_width()


def test_epochs_that_runs_reached_before_their_time_was_used():
    """Below the threshold only, and what they did reach, not what they might have."""
    results = made_up(["denoising"], ["deq"], [0.1], [0.1, 1.0, 2.0], [0.5], ["relu"], diverging=0)
    results = results.copy(deep=True)
    results["test_loss"][:] = 0.2
    results["test_loss"].loc[{"tau": 0.1, "epoch": [2, 3]}] = np.nan
    results["test_loss"].loc[{"tau": 2.0}] = 0.6
    results["seconds"][:] = [0, 800, 800, 150]
    results["seconds"].loc[{"tau": 0.1, "epoch": 1}] = 1750
    results["evaluation_seconds"][:] = 10
    figure = plots.figure_6(results.assign_attrs(hours=0.5))
    bars = {round(b.get_x() + b.get_width() / 2): b.get_height() for b in figure.axes[0].patches}
    assert bars == {1: 1, 2: 0, 3: 1}
    assert "A run's training ended when 0.5 h were used" in caption_of(figure)


def blocks_of(figure, shown, levels):
    """[rows, levels, pictures] axes of a figure of reconstructions, without the gaps."""
    grid = np.array(figure.axes[:-1], object).reshape(-1, levels * (shown + 1) - 1)
    return np.stack([grid[:, i * (shown + 1) :][:, :shown] for i in range(levels)], axis=1)


def test_the_setting_that_the_paper_shows_stands_beside_the_best():
    results = made_up(taus=(0.5, 1.0), gammas=(0.1, 1.0), diverging=0)
    figure = plots.reconstruction_figure(results, "inpainting")
    blocks = blocks_of(figure, 2, 3)
    says = [line[0, 0].get_ylabel() for line in blocks]
    chosen = results.sel(task="inpainting", tau=0.5, gamma=1.0, activation="softshrink")
    for model in ("bilevel", "deq"):
        line = blocks[says.index(f"{NAMES[model]} $u^*$,\nas in [REB]")]
        for noise, block in zip((0.01, 0.1, 0.2), line, strict=True):
            own = chosen.sel(model=model, noise=noise)
            loss = f"test loss {float(own.test_loss[-1]):.3g}"
            assert block[0].get_title("left") == f"$\\tau$ 0.5, $\\gamma$ 1, softshrink\n{loss}"
            drawn = np.asarray(block[0].images[0].get_array())
            np.testing.assert_array_equal(drawn.ravel(), own.reconstruction.values[0])
    assert "no such run" not in caption_of(figure)
    assert "tau 0.5, gamma 0.5, activation softshrink; no such run is among these" in caption_of(
        plots.reconstruction_figure(results, "deblurring")
    )


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_reconstructions_fit_a_page(levels):
    square = np.zeros((5, 28, 28))
    results = made_up(taus=(0.5,), gammas=(1.0,), noises=(0.1, 0.2, 0.5)[:levels], picture=square)
    results.attrs["caption"] = 6 * CAPTION
    figure = plots.reconstruction_figure(results, "inpainting")
    width, height = figure.get_size_inches()
    assert 8 < height <= 9 + 1e-6 and width <= 7 + 1e-6
    assert len(blocks_of(figure, min(6 // levels, 5), levels)) == 8


@pytest.mark.parametrize("task", ["denoising", "deblurring"])
def test_reconstructions_of_the_best_runs(task):
    results = RESULTS["dead"]
    figure = plots.reconstruction_figure(results, task)
    rows = {"truth $u$": "truth", "measurement $f$": "measurement"}
    for model in ("bilevel", "DEQ"):
        if task != "denoising":
            rows[f"{model} $K u^*$, best"] = "best_measured_reconstruction"
        rows[f"{model} $u^*$, best"] = "best_reconstruction"
    blocks = blocks_of(figure, 2, 3)
    assert [line[0, 0].get_ylabel() for line in blocks] == list(rows)
    heads = [axes.get_title("left") for axes in blocks[0, :, 0]]
    assert heads == ["noise 0.01", "noise 0.1", "noise 0.2"]
    for (label, name), line in zip(rows.items(), blocks, strict=True):
        for noise, block in zip((0.01, 0.1, 0.2), line, strict=True):
            where = {"task": task, "noise": noise}
            source = results.sel(where | {"model": "deq" if "DEQ" in label else "bilevel"})
            for index, axes in enumerate(block):
                drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
                expected = source[name].values[index].reshape(SHAPE)
                np.testing.assert_array_equal(drawn, expected)
                assert axes.images[0].get_clim() == (-1, 1)
                dead = np.isnan(expected).all()
                assert texts(axes) == (["none"] if dead else [])
                judged = name in ("measurement", "best_reconstruction") and not dead
                truth = results.truth.values[index].reshape(SHAPE)
                noisy = 10 * np.log10(4 / np.mean((expected - truth) ** 2)) if judged else None
                assert axes.get_xlabel() == ("" if noisy is None else f"{noisy:.2f}")
            if name == "best_reconstruction":
                loss = float(source.best_test_loss)
                said = f"$\\tau$ 0.1, $\\gamma$ 0.5, identity\ntest loss {loss:.3g}"
                assert block[0].get_title("left") == (
                    said if np.isfinite(loss) else "no run remains"
                )


def test_a_task_that_is_absent_is_named():
    with pytest.raises(ValueError, match=r"task='denoising'.*inpainting"):
        plots.reconstruction_figure(RESULTS["single"], "denoising")


def rendered(figure, path):
    """The picture that `save` writes, checked not to be blank."""
    plots.save(figure, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == "PNG" and image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
        assert image.size == pytest.approx(200 * figure.get_size_inches(), abs=1)
        pixels = np.asarray(image.convert("L"))
    assert np.ptp(pixels) > 200 and pixels.std() > 10
    return pixels


@pytest.mark.parametrize("name", ["single", "nothing"])
def test_every_figure_of_present_tasks_is_drawn_and_saved(name, tmp_path):
    results = RESULTS[name]
    drawn = plots.figures(results)
    present = "figure_3" if name == "single" else "figure_4"
    assert list(drawn) == ["figure_1", present, "figure_5", "figure_6"]
    for figure in drawn.values():
        assert isinstance(figure, Figure)
        assert caption_of(figure).startswith(CAPTION)
        assert figure.get_suptitle() == ""
        rendered(figure, tmp_path / "figure.png")


def test_no_text_leaves_the_figure_or_meets_another():
    drawn = plots.figures(RESULTS["full"].isel(noise=[0, 3], picture=[0, 1]))
    assert list(drawn) == [f"figure_{number}" for number in range(1, 7)]
    records = [{"epoch": i, "train_loss": 1.0, "test_loss": 0.99} for i in range(3)]
    drawn["losses"] = plots.loss_curves(records, CAPTION, {"measurement f": 1.01, "K^T f": 1.0})
    for name in ("figure_1", "figure_3", "figure_5", "figure_6", "losses"):
        figure = drawn[name]
        figure.draw_without_rendering()
        [caption] = [t.get_window_extent() for t in figure.texts if t.get_text()[:4] == "Made"]
        assert caption.x0 >= 0 and caption.y0 >= 0 and caption.x1 <= figure.bbox.x1
        keys = [legend.get_window_extent() for legend in figure.legends]
        for axes in figure.axes:
            box = axes.get_tightbbox()
            assert box.y0 >= caption.y1 and box.y1 <= min([figure.bbox.y1, *(k.y0 for k in keys)])
            assert box.x0 >= 0 and box.x1 <= figure.bbox.x1
            beside = [text.get_window_extent() for text in axes.texts]
            for axis in (axes.xaxis, axes.yaxis):
                ticks = [t for t in axis.get_ticklabels() if t.get_visible() and t.get_text()]
                beside += [tick.get_window_extent() for tick in ticks]
            assert not any(a.overlaps(b) for a, b in combinations(beside, 2))


def test_labels_keep_apart_and_inside():
    assert base.spread([], 0.1).tolist() == []
    moved = base.spread([0.5, 0.5, 0.52, 0.99, 1.0], 0.1)
    assert np.diff(moved).min() >= 0.1 - 1e-12 and moved[0] == 0.5 and moved[-1] <= 1
    np.testing.assert_allclose(base.spread([0.2, 0.8], 0.1), [0.2, 0.8])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.01, 100, ["0.01", "0.1", "1", "10", "100"]),
        (0.02, 1.5, ["0.03", "0.1", "0.3", "1"]),
        (0.1, 0.6, ["0.1", "0.2", "0.5"]),
        (0.0092, 0.0101, ["0.00925", "0.0095", "0.00975", "0.01"]),
        (1e-12, 1e-9, ["$10^{-12}$", "$10^{-11}$", "$10^{-10}$", "$10^{-9}$"]),
    ],
)
def test_ticks_of_a_logarithmic_axis_can_be_read(low, high, expected):
    axes = Figure().subplots()
    axes.set(yscale="log", ylim=(low, high))
    base.log_ticks(axes.yaxis)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == expected
    assert not any(tick.get_text() for tick in axes.get_yticklabels(minor=True))


@pytest.mark.parametrize("grey", [(-1.0, 1.0), (0.0, 1.0)])
def test_reconstructions_have_their_numbers_below_and_their_errors_beside(grey, tmp_path):
    rng, shape = np.random.default_rng(1), (12, 16)
    truth = rng.uniform(*grey, (6, 192)).astype(np.float32)
    rows = {"u": truth, "f": truth + rng.uniform(-0.3, 0.3, truth.shape), "K u*": 0 * truth}
    rows |= {"u*": truth + rng.uniform(-0.1, 0.1, truth.shape)}
    options = {"grey": grey, "compared": ("f", "u*")}
    figure = plots.reconstructions(rows, shape, CAPTION, **options)
    grid = np.array(figure.axes[:32]).reshape(4, 8)
    assert [axes.get_ylabel() for axes in grid[:, 0]] == list(rows)
    most = np.quantile(np.abs(rows["u*"] - truth)[:4], 0.99)
    for line, (name, pictures) in zip(grid, rows.items(), strict=True):
        for axes, beside, u, v in zip(line[:4], line[4:], pictures, truth, strict=False):
            np.testing.assert_array_equal(axes.images[0].get_array(), u.reshape(shape))
            assert axes.images[0].get_clim() == grey
            if name not in ("f", "u*"):
                assert axes.get_xlabel() == "" and not beside.images
                continue
            peak = {"data_range": grey[1] - grey[0]}
            psnr = peak_signal_noise_ratio(v, u, **peak)
            assert axes.get_xlabel().startswith(f"{psnr:.2f} | 0.")
            np.testing.assert_allclose(beside.images[0].get_array(), abs(u - v).reshape(shape))
            assert beside.images[0].get_clim() == (0, pytest.approx(most))
    assert "Below pictures: PSNR in dB | SSIM. The first 4 of 6" in caption_of(figure)
    assert [axes.get_xlabel() for axes in figure.axes[32:]] == ["grey values", "|u - u|"]
    rendered(figure, tmp_path / "grid.png")


def test_a_gallery_shows_every_picture_on_one_scale(tmp_path):
    pictures = np.random.default_rng(2).uniform(0, 1, (10, 24))
    figure = plots.gallery(pictures, SHAPE, CAPTION, (0.0, 1.0))
    drawn = [axes.images[0] for axes in figure.axes[:16] if axes.images]
    np.testing.assert_array_equal([x.get_array().ravel() for x in drawn], pictures)
    assert {x.get_clim() for x in drawn} == {(0, 1)}
    rendered(figure, tmp_path / "gallery.png")
    with pytest.raises(ValueError, match="no picture"):
        plots.gallery(pictures[:0], SHAPE, CAPTION, (0.0, 1.0))


def test_kernels_of_a_stage_have_one_scale_and_filters_their_strengths():
    rng = np.random.default_rng(3)
    kernels = rng.normal(size=(3, 2, 4))
    axes = plots.kernel_figure({"start": kernels, "learned": 2 * kernels}, CAPTION).axes
    clims = [each.images[0].get_clim() for each in axes if each.images]
    most = np.abs(kernels).max()
    assert clims == 3 * [(-most, most)] + 3 * [(-2 * most, 2 * most)]
    figure = plots.filter_figure({"before": (kernels, np.array([1.0, 3.0, 2.0]))}, CAPTION)
    shown = [each for each in figure.axes if each.images]
    assert [each.get_title() for each in shown] == ["3", "2", "1"]
    expected = kernels[1] / np.abs(kernels[1]).max()
    np.testing.assert_allclose(shown[0].images[0].get_array(), expected)


@pytest.mark.parametrize("rows", [{}, {"u": np.zeros((0, 24))}, {"u": np.zeros((2, 23))}])
def test_pictures_that_cannot_be_drawn(rows):
    with pytest.raises(ValueError):
        plots.reconstructions(rows, SHAPE, CAPTION)


def test_loss_curves(tmp_path):
    records = [
        {
            "epoch": epoch,
            "train_loss": np.nan if epoch == 0 else 1 / epoch,
            "test_loss": 2.0**-epoch,
        }
        for epoch in range(5)
    ]
    figure = plots.loss_curves(records, CAPTION)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert sorted(texts(axes)) == ["test loss", "train loss"]
    for line, name in zip(axes.lines, ("train_loss", "test_loss"), strict=True):
        np.testing.assert_array_equal(line.get_xdata(), range(5))
        np.testing.assert_array_equal(line.get_ydata(), [record[name] for record in records])
    assert caption_of(figure) == CAPTION
    rendered(figure, tmp_path / "curves.png")


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = plots.loss_curves([], CAPTION)

    def half(part, **_):
        part.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plots.save(figure, path)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_no_style_of_a_users_reaches_a_figure(tmp_path):
    rc = {"text.usetex": True, "font.family": "no such font", "figure.figsize": (1, 1)}
    with matplotlib.rc_context(rc):
        for name, figure in plots.figures(RESULTS["single"]).items():
            plots.save(figure, tmp_path / f"{name}.png")
            assert not any(text.get_usetex() for text in figure.texts)
        assert matplotlib.rcParams["text.usetex"]
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_error_of_as_many_methods_as_there_are(count):
    point = {"relative_error": 0.1, "budget": 10, "seconds": 0.1, "peak_mb": 1.0}
    rows = [{"problem": "filters", "method": f"m{i}"} | point for i in range(count)]
    figure = plots.method_figure(rows, CAPTION)
    assert [len(axes.lines) for axes in figure.axes] == 3 * [count]


def test_a_pdf_stands_beside_the_png_on_the_list_where_it_is_asked_for(tmp_path):
    listing.start(tmp_path, ["files.txt"])
    context = copy_context()
    context.run(PDF.set, True)
    assert context.run(draw, tmp_path / "losses.png", plots.loss_curves, [], CAPTION)
    assert listing.entries(tmp_path)[1:] == ["files.txt", "losses.png", "losses.pdf"]
    written = (tmp_path / "losses.pdf").read_bytes()
    assert written.startswith(b"%PDF") and CAPTION.encode() in written
    with Image.open(tmp_path / "losses.png") as image:
        assert image.text["Description"] == CAPTION


def test_a_figure_that_cannot_be_drawn_costs_itself_and_a_warning(tmp_path, capsys):
    assert not draw(tmp_path / "no.png", plots.reconstructions, {}, SHAPE, CAPTION)
    assert "no.png was not drawn (ValueError: rows: there is no picture" in capsys.readouterr().err
    assert draw(tmp_path / "yes.png", plots.loss_curves, [], CAPTION)
    assert [path.name for path in tmp_path.iterdir()] == ["yes.png"]


def test_errors_of_few_pixels_have_colours_too():
    sparse, none = np.zeros((1, 1000)), np.zeros((1, 1000))
    sparse[0, 3] = 0.5
    dense = np.full((1, 1000), 0.8)
    assert greys.error_scale([dense, sparse, none]) == 0.5
    assert greys.error_scale([none]) == 1.0
