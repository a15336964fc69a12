"""What Python adds to calls of torchvision's networks at 32 x 32, against what `measure_python_overhead` has it add. Needs torch,
torchvision and onnxscript, and a quiet machine for a minute: `PYTHONPATH=python python3 python/tests/overhead.py`.
"""

import statistics
import time
import warnings

import torch
import torchvision
import wattfarm

ROUNDS = 150
NAMES = ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "densenet121"]


def networks():
    models = torchvision.models
    yield from ((name, models.get_model(name, weights=None)) for name in NAMES)
    yield "vit, 6 blocks of 192", models.VisionTransformer(32, 8, 6, 3, 192, 768)


def seconds(call, x):
    started = time.perf_counter()
    call(x)
    return time.perf_counter() - started


def main():
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    # One operator for a whole block, which neither the network nor its trace would be read as.
    torch.backends.mha.set_fastpath_enabled(False)
    overheads = [wattfarm.measure_python_overhead(seconds=5.0) for _ in range(2)]
    for overhead in overheads:
        print(overhead)
    print("| network | layers | Python ms | libtorch ms | Python's own ms | predicted ms |\n|---|---:|---:|---:|---:|---:|")
    x = torch.randn(1, 3, 32, 32)
    for name, module in networks():
        module.eval()
        layers = len(wattfarm.Network.from_torch(module, x).layers)
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            traced = torch.jit.trace(module, x, check_trace=False)
            pairs = [(seconds(module, x), seconds(traced, x)) for _ in range(20 + ROUNDS)][20:]
        eager, own = (1e3 * statistics.median(times) for times in zip(*pairs))
        difference = 1e3 * statistics.median(eager - own for eager, own in pairs)
        low, middle, high = (
            1e-3 * layers * us for us in (overheads[0].us_low, overheads[0].us_per_operator, overheads[0].us_high)
        )
        print(f"| {name} | {layers} | {eager:.2f} | {own:.2f} | {difference:.2f} | {middle:.2f} ({low:.2f} .. {high:.2f}) |")


if __name__ == "__main__":
    main()
