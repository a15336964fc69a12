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

    #: Microseconds an operator: the median over the rounds, and the quartiles.
    us_per_operator: float
    us_low: float
    us_high: float
    rounds: int


#: Calls in a round of each way: some milliseconds.
CALLS = 40


def measure_python_overhead(seconds: float = 3.0) -> PythonOverhead:
    """Runs small modules by turns as Python does, eagerly, and as libtorch does, from a trace that its own interpreter runs
    without optimising it, in this process and on this thread, for about so long. Their tensors are tiny, for what Python adds
    doesn't go by size. Wants a quiet machine. Raises `Error` where torch isn't installed.
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


def _chains(torch: typing.Any) -> list[tuple[list[torch.nn.Module], torch.Tensor]]:
    """Modules that come after each other in networks of images and of texts, and what they read."""
    nn = torch.nn
    image = [nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.MaxPool2d(1)] * 8
    text = [nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 8), nn.Dropout(0.1)] * 8
    return [(image, torch.zeros(1, 4, 2, 2)), (text, torch.zeros(1, 4, 8))]


class _Pair:
    """A chain of modules, and the trace of it."""

    def __init__(self, torch: typing.Any, modules: list[torch.nn.Module], x: torch.Tensor) -> None:
        self.operators, self.x = len(modules), x
        self.eager = torch.nn.Sequential(*modules).eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.traced = torch.jit.trace(self.eager, x, check_trace=False)

    def round(self) -> float:
        """Microseconds that an operator takes longer when Python calls it."""
        difference = self._seconds(self.eager) - self._seconds(self.traced)
        return 1e6 * difference / (CALLS * self.operators)

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
