"""Time against the size of the image and of the batch: proportional, or worse."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

from wbcnets.benchmark.case import BenchmarkOptions
from wbcnets.benchmark.measure import time_in_turns
from wbcnets.errors import explain_missing
from wbcnets.io.atomic_files import write_atomically

SIZES = ((240, 320), (480, 640), (720, 960), (960, 1280))
BATCHES = (1, 2, 4, 8, 16)
BATCH_SIZE_HW = (240, 320)

Runner = Callable[[int, int, int], Callable[[], Any]]


@dataclass(frozen=True)
class ScalingCase:
    """A model that takes any batch and size.

    Args:
        model: The name of the model.
        about: What is run, in a few words.
        build: Returns a function from batch, height and width to one run.
    """

    model: str
    about: str
    build: Callable[[BenchmarkOptions], Runner]
    suites = ("scaling", "peers")

    @property
    def name(self) -> str:
        """The name that selects it."""
        return f"scaling/{self.model}"


@dataclass(frozen=True)
class ScalingPoint:
    """The median seconds of a batch of one size."""

    model: str
    batch: int
    height: int
    width: int
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        """The time divided by the batch."""
        return self.seconds / self.batch


def sckansformer_scaling() -> ScalingCase:
    """Returns the case of SCKansformer-small; position embeddings are resampled to every size."""
    about = "SCKansformer-small, inference, by size and batch"
    return ScalingCase("sckansformer_small", about, _sckansformer)


def _sckansformer(options: BenchmarkOptions) -> Runner:
    torch.manual_seed(options.seed)
    model = timm.create_model("sckansformer_small", num_classes=40, dynamic_img_size=True)
    model = model.eval().to(options.device, options.dtype)

    def at_size(batch: int, height: int, width: int) -> Callable[[], Any]:
        images = torch.randn(batch, 3, height, width, device=options.device).to(options.dtype)

        def run() -> Any:
            with torch.inference_mode():
                return model(images)

        return run

    return at_size


def measure_scaling(case: ScalingCase, options: BenchmarkOptions) -> list[ScalingPoint]:
    """Measures every size with a batch of 1, and every batch at 320x240."""
    runner = case.build(options)
    wanted = [(1, *size) for size in SIZES] + [(batch, *BATCH_SIZE_HW) for batch in BATCHES[1:]]
    points = []
    for batch, height, width in tqdm(wanted, desc=case.name, disable=None):
        (seconds,) = time_in_turns([runner(batch, height, width)], options)
        median = statistics.median(seconds)
        points.append(ScalingPoint(case.model, batch, height, width, median))
    return points


def growth(points: list[ScalingPoint]) -> tuple[float, float]:
    """Returns the growth of the time per pixel and of the time per image; 1 is proportional.

    The first is from the smallest to the largest image, the second from batch 1 to the largest.
    """
    first = points[0]
    single = [point for point in points if point.batch == 1]
    same_size = [
        point for point in points if (point.height, point.width) == (first.height, first.width)
    ]
    largest = max(single, key=lambda point: point.height * point.width)
    fullest = max(same_size, key=lambda point: point.batch)
    pixels = largest.height * largest.width / (first.height * first.width)
    by_size = largest.seconds / first.seconds / pixels
    return by_size, fullest.seconds_per_image / first.seconds_per_image


def plot_scaling(points: list[ScalingPoint], path: Path) -> None:
    """Draws time against pixels, and time per image against the batch."""
    with explain_missing():
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

    figure, (by_size, by_batch) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for index, name in enumerate(dict.fromkeys(point.model for point in points)):
        mine = [point for point in points if point.model == name]
        sizes = [point for point in mine if point.batch == 1]
        batches = [p for p in mine if (p.height, p.width) == (mine[0].height, mine[0].width)]
        pixels = [point.height * point.width / 1e6 for point in sizes]
        seconds = [point.seconds for point in sizes]
        color = f"C{index}"
        by_size.plot(pixels, seconds, "o-", color=color, label=name)
        by_size.plot(pixels, [seconds[0] * p / pixels[0] for p in pixels], ":", color=color)
        by_batch.plot(
            [p.batch for p in batches],
            [p.seconds_per_image for p in batches],
            "o-",
            color=color,
            label=name,
        )
        by_batch.axhline(batches[0].seconds_per_image, linestyle=":", color=color)
    by_size.set(xlabel="megapixels, batch 1", ylabel="seconds", xscale="log", yscale="log")
    by_batch.set(xlabel="images in a batch of 320x240", ylabel="seconds per image", ylim=0)
    by_batch.set_xscale("log", base=2)
    by_size.set_title("time against size (dotted: proportional)")
    by_batch.set_title("time per image against the batch (dotted: that of one image)")
    by_size.legend()
    write_atomically(path, lambda file: figure.savefig(file, dpi=120))
    pyplot.close(figure)
