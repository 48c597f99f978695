"""Is it the judge that sees bags? Other judges look at the picture of the study of clothes.

    python experiments/ddpm_judges.py runs/ddpm-judges

The picture `results/fashion_ddpm_samples-class-8.png` holds six images of bags for each model of
seed 0, exactly: each pixel is a square of nine. The study's judge, a ResNet, looks at them, and two
others that see pixels alone: the five nearest training images, and a random forest. All look at
patterns too that show no clothes. Writes `results/fashion_ddpm_judges.json`, `.md` and
`.png`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

from jaxunlearn.cli.main import one_sentence
from jaxunlearn.evaluation.predictions import predict_with
from jaxunlearn.files import read_json, write_json, write_text
from jaxunlearn.studies.problem import load_dataset, load_task, load_training
from jaxunlearn.studies.report.markdown_text import markdown_table
from jaxunlearn.studies.runs import train
from jaxunlearn.studies.study import load_study

HERE = Path(__file__).parent
RESULTS = HERE / "results"
Judge = Callable[[np.ndarray], np.ndarray]  # images [n, 28, 28, 1] to classes [n]
STUDY, BAG = "fashion_ddpm", 8
TOP, LEFT, PITCH, GAP = 126, 258, 88, 8  # of the picture, in pixels; the gap is below references
SCALE, SIDE, COUNT = 3, 28, 6


def images() -> dict[str, np.ndarray]:
    """The images that were asked for as bags, uint8 `[6, 28, 28, 1]`, by model."""
    picture = plt.imread(RESULTS / f"{STUDY}_samples-class-{BAG}.png")[..., 0]
    study = read_json(RESULTS / f"{STUDY}.json")
    found = {}
    for row, name in enumerate(study["requests"][f"class-{BAG}"]["runs"]):
        cells = []
        for column in range(COUNT):
            top, left = TOP + PITCH * row + GAP * (row > 1), LEFT + PITCH * column
            cell = picture[top : top + SCALE * SIDE, left : left + SCALE * SIDE]
            blocks = cell.reshape(SIDE, SCALE, SIDE, SCALE)
            assert np.ptp(blocks, axis=(1, 3)).max() == 0.0, (name, column)
            cells.append(np.round(255 * blocks[:, 0, :, 0])[..., None])
        found[name] = np.stack(cells).astype(np.uint8)
    return found


def patterns(test: np.ndarray, labels: np.ndarray, count: int = 100) -> dict[str, np.ndarray]:
    """Images that show no bag, uint8 `[n, 28, 28, 1]`; and real ones of both kinds."""
    draws = np.random.default_rng(0)
    smooth = gaussian_filter(draws.normal(size=(count, SIDE, SIDE, 1)), (0, 2, 2, 0))
    grey = 127.5 + 127.5 * smooth / np.abs(smooth).max(axis=(1, 2, 3), keepdims=True)
    others = test[labels != BAG][:count]
    patches = others.reshape(count, 4, 7, 4, 7).transpose(0, 1, 3, 2, 4).reshape(count, 16, 7, 7)
    mixed = patches[:, draws.permutation(16)].reshape(count, 4, 4, 7, 7).transpose(0, 1, 3, 2, 4)
    return {
        "other clothes": others,
        "other clothes, squares of 7 pixels mixed": mixed.reshape(count, SIDE, SIDE, 1),
        "noise of each pixel": draws.integers(0, 256, (count, SIDE, SIDE, 1), np.uint8),
        "smooth noise, black and white": 255 * (smooth > 0).astype(np.uint8),
        "smooth noise, grey": grey.astype(np.uint8),
        "bags": test[labels == BAG][:count],
    }


def judges(folder: Path) -> dict[str, Judge]:
    """The study's judge, trained in a folder unless it is there, and the two others."""
    study = load_study(HERE / "configs" / f"{STUDY}.toml")
    judged, learned = study.judge(), load_training(study.problem, 0)
    assert judged is not None
    weights, task = train.pretrain(folder / "classifier", judged, 0), load_task(judged)

    def resnet(images: np.ndarray) -> np.ndarray:
        arrays = {"image": images, "label": np.zeros(len(images), np.int32)}
        return np.asarray(predict_with(task, weights, arrays).probabilities).argmax(axis=1)

    def of_pixels(model: Any) -> Judge:
        model.fit(learned.image.reshape(len(learned), -1), learned.label)
        return lambda images: np.asarray(model.predict(images.reshape(len(images), -1)))

    forest = RandomForestClassifier(50, random_state=0)
    return {
        "the study's": resnet,
        "5 nearest": of_pixels(KNeighborsClassifier(5)),
        "forest": of_pixels(forest),
    }


def drawn(path: Path, shown: dict[str, np.ndarray], seen: dict[str, dict[str, list[int]]]) -> None:
    """The images asked for as bags; below each, which judges see a bag."""
    figure, axes = plt.subplots(len(shown), COUNT, figsize=(6.6, 1.12 * len(shown)))
    for row, (name, some) in zip(axes, shown.items(), strict=True):
        row[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
        for column, (place, image) in enumerate(zip(row, some, strict=True)):
            place.imshow(image[..., 0], cmap="gray", vmin=0, vmax=255)
            place.set(xticks=[], yticks=[])
            of = [judge for judge, found in seen[name].items() if found[column] == BAG]
            said = "all" if len(of) == len(seen[name]) else ", ".join(of) or "none"
            place.set_xlabel(said, fontsize=4.5, labelpad=1)
    figure.suptitle("Asked for a bag, seed 0: the judges that see one", fontsize=9)
    figure.subplots_adjust(0.24, 0.02, 0.99, 0.97, 0.05, 0.2)
    figure.savefig(path, dpi=110)


def main(folder: Path) -> None:
    """Asks all judges, and writes the result, its table and its picture."""
    chosen = judges(folder)
    dataset = load_dataset(load_study(HERE / "configs" / f"{STUDY}.toml").problem)
    test, labels = dataset.test.image[:1000], dataset.test.label[:1000]
    accuracy = {
        name: 100.0 * float(np.mean(judge(test) == labels)) for name, judge in chosen.items()
    }
    bags = {
        kind: {name: 100.0 * float(np.mean(judge(some) == BAG)) for name, judge in chosen.items()}
        for kind, some in patterns(test, labels).items()
    }
    shown = images()
    seen = {
        model: {name: judge(some).tolist() for name, judge in chosen.items()}
        for model, some in shown.items()
    }
    found = {"accuracy": accuracy, "patterns_called_bags": bags, "classes_seen": seen}
    path = RESULTS / f"{STUDY}_judges"
    write_json(path.with_suffix(".json"), found)
    models = [[name, *(str(of.count(BAG)) for of in seen[name].values())] for name in shown]
    kinds = [[kind, *(f"{share:.1f}" for share in of.values())] for kind, of in bags.items()]
    exact = ["test accuracy, %", *(f"{each:.1f}" for each in accuracy.values())]
    lines = [
        "# Other judges of a DDPM of clothes",
        "",
        "Images, of six asked for as bags, in which a judge sees a bag.",
        "",
        *markdown_table(["model", *chosen], models),
        "",
        "Images that a judge calls bags, in percent.",
        "",
        *markdown_table(["images", *chosen], [exact, *kinds]),
        "",
        f"![Images that were asked for as bags]({path.name}.png)",
        "",
    ]
    write_text(path.with_suffix(".md"), "\n".join(lines))
    drawn(path.with_suffix(".png"), shown, seen)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="receives the study's judge")
    with one_sentence():
        main(parser.parse_args().folder)
