"""How time grows with the image and with the batch: no worse than in proportion."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from tqdm import tqdm

from wbcnets.benchmark.case import Settings
from wbcnets.benchmark.measure import synchronize

SIZES = ((240, 320), (480, 640), (720, 960), (960, 1280))
BATCHES = (1, 2, 4, 8, 16)
BATCH_SIZE_HW = (240, 320)

Runner = Callable[[int, int, int], Callable[[], Any]]


@dataclass(frozen=True)
class ScalingCase:
    """A model that takes any batch and size.

    Args:
        name: For `--case scaling/NAME`.
        about: What is run.
        build: From settings to a function from batch, height and width to one run.
    """

    name: str
    about: str
    build: Callable[[Settings], Runner]


@dataclass(frozen=True)
class ScalingPoint:
    """Median seconds of one batch of one size."""

    case: str
    batch: int
    height: int
    width: int
    seconds: float

    @property
    def seconds_per_image(self) -> float:
        """Of one image of the batch."""
        return self.seconds / self.batch


def sckansformer_scaling() -> ScalingCase:
    """SCKansformer-small; position embeddings are resampled to every size."""
    return ScalingCase("sckansformer_small", "SCKansformer-small, inference", _sckansformer)


def _sckansformer(settings: Settings) -> Runner:
    torch.manual_seed(settings.seed)
    model = timm.create_model("sckansformer_small", num_classes=40, dynamic_img_size=True)
    model = model.eval().to(settings.device, settings.dtype)

    def at_size(batch: int, height: int, width: int) -> Callable[[], Any]:
        images = torch.randn(batch, 3, height, width, device=settings.device).to(settings.dtype)

        def run() -> Any:
            with torch.inference_mode():
                return model(images)

        return run

    return at_size


def measure_scaling(case: ScalingCase, settings: Settings) -> list[ScalingPoint]:
    """Every size with a batch of 1, and every batch at 320x240."""
    runner = case.build(settings)
    wanted = [(1, *size) for size in SIZES] + [(batch, *BATCH_SIZE_HW) for batch in BATCHES[1:]]
    points = []
    for batch, height, width in tqdm(wanted, desc=f"scaling/{case.name}", disable=None):
        run = runner(batch, height, width)
        seconds = _median_seconds(run, settings)
        points.append(ScalingPoint(case.name, batch, height, width, seconds))
    return points


def _median_seconds(run: Callable[[], Any], settings: Settings) -> float:
    seconds = []
    for _ in range(settings.warmup + settings.rounds):
        synchronize(settings.device)
        start = time.perf_counter()
        run()
        synchronize(settings.device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[settings.warmup :])


def growth(points: list[ScalingPoint]) -> tuple[float, float]:
    """How much worse than in proportion time grew, by size and by batch: 1 is in proportion.

    From the smallest to the largest image, time per pixel; from batch 1 to the largest, time per
    image.
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
    """Time per image over pixels, and over the batch, with lines of proportion."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (by_size, by_batch) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for index, name in enumerate(dict.fromkeys(point.case for point in points)):
        mine = [point for point in points if point.case == name]
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
    by_size.set_title("time against size (dotted: in proportion)")
    by_batch.set_title("time per image against the batch (dotted: that of one)")
    by_size.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
