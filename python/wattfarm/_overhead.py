"""What Python itself adds to a call of a module, measured on the machine that this runs on. Needs torch."""

from __future__ import annotations

import dataclasses
import statistics
import time
import typing
import warnings

from . import _native

if typing.TYPE_CHECKING:
    import torch


@dataclasses.dataclass(frozen=True)
class PythonOverhead:
    """Time of an operator called by Python, module by module, beyond that of the same operator called by libtorch."""

    #: Microseconds an operator: the median over rounds of narrow and wide blocks, and the quartiles. What the weights around it
    #: leave in the caches counts for as much as the operator.
    us_per_operator: float
    us_low: float
    us_high: float
    rounds: int


#: Calls in a round of each way: some milliseconds.
CALLS = 10


def measure_python_overhead(seconds: float = 3.0) -> PythonOverhead:
    """Runs blocks of modules by turns as Python does, eagerly, and as libtorch does, from a trace that its own interpreter runs
    without optimising it, in this process and on this thread, for about so long. Wants a quiet machine. Raises `Error` where
    torch isn't installed.
    """
    try:
        import torch
    except ModuleNotFoundError:
        raise _native.Error("`torch` is not installed: what Python adds to its calls is measured with it") from None
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            return _measured([_Pair(torch, *chain) for chain in _chains(torch)], seconds)
    finally:
        torch.set_num_threads(threads)


#: Blocks in a chain, and the operators of each: five modules and a sum.
BLOCKS, OPERATORS = 8, 6


def _chains(torch: typing.Any) -> list[tuple[torch.nn.Module, torch.Tensor]]:
    """Residual blocks as networks of images and of texts have them, and what they read: narrow, so that all of it stays in the
    caches, and wide, so that weights take the interpreter's own data out of them, as they do in a network."""
    nn = torch.nn

    class Residual(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, *body: torch.nn.Module) -> None:
            super().__init__()
            self.body = nn.Sequential(*body)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.body(x)

    def conv(channels: int) -> torch.nn.Module:
        return nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def image(channels: int) -> torch.nn.Module:
        norms = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        return Residual(conv(channels), norms[0], nn.ReLU(inplace=True), conv(channels), norms[1])

    def text(width: int) -> torch.nn.Module:
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        return Residual(nn.LayerNorm(width), up, nn.GELU(), down, nn.Dropout(0.1))

    def chain(block: typing.Callable[[int], torch.nn.Module], width: int) -> torch.nn.Module:
        return nn.Sequential(*(block(width) for _ in range(BLOCKS)))

    images = [(chain(image, width), torch.zeros(1, width, 2, 2)) for width in (8, 128)]
    return images + [(chain(text, width), torch.zeros(1, 4, width)) for width in (8, 256)]


class _Pair:
    """A chain of blocks, and the trace of it."""

    def __init__(self, torch: typing.Any, chain: torch.nn.Module, x: torch.Tensor) -> None:
        self.eager, self.x = chain.eval(), x
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.traced = torch.jit.trace(self.eager, x, check_trace=False)

    def round(self) -> float:
        """Microseconds that an operator takes longer when Python calls it."""
        difference = self._seconds(self.eager) - self._seconds(self.traced)
        return 1e6 * difference / (CALLS * BLOCKS * OPERATORS)

    def _seconds(self, call: typing.Callable[[torch.Tensor], torch.Tensor]) -> float:
        started = time.perf_counter()
        for _ in range(CALLS):
            call(self.x)
        return time.perf_counter() - started


def _measured(pairs: list[_Pair], seconds: float) -> PythonOverhead:
    for pair in pairs:
        pair.round()
    rounds: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(rounds) < 8:
        rounds.extend(pair.round() for pair in pairs)
    low, median, high = statistics.quantiles(rounds, n=4)
    return PythonOverhead(us_per_operator=median, us_low=low, us_high=high, rounds=len(rounds))
