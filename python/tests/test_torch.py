"""Networks of PyTorch's modules. `make python` runs this where torch and onnxscript can be imported, and says so where not."""

import importlib.util
import pathlib
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import wattfarm  # noqa: E402

NETWORKS = ROOT / "onnx" / "tests" / "networks"
IS_THERE = all(importlib.util.find_spec(name) for name in ("torch", "onnxscript"))


def kinds(network):
    """Kinds of the layers that do more than move values."""
    moved = ("permute", "copy", "flatten")
    return [layer["layer"]["kind"] for layer in network.layers if layer["layer"]["kind"] not in moved]


@unittest.skipIf(IS_THERE, "torch is there")
class Missing(unittest.TestCase):
    def test_what_is_missing_is_named(self):
        with self.assertRaisesRegex(wattfarm.Error, "is not installed: a network from a module needs torch .* and onnxscript"):
            wattfarm.Network.from_torch(object(), (1, 3, 8, 8))


@unittest.skipUnless(IS_THERE, "torch and onnxscript are not installed")
class Modules(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        import torch

        cls.torch = torch

    def basic_block(self, channels):
        """A residual block, as torchvision has it, with what it is in the zoo beside it."""
        nn = self.torch.nn

        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
                self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
                self.drop = nn.Dropout(0.5)

            def forward(self, x):
                y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
                return self.drop((x + y).relu())

        return Block()

    def test_a_block_is_that_of_the_built_in_network(self):
        module = self.basic_block(64)
        block = wattfarm.Network.from_torch(module, (2, 64, 56, 56))
        self.assertEqual((block.name, block.batch, block.warnings), ("Block", 2, []))
        own = [layer["hash"] for layer in block.layers]
        built_in = {layer["name"]: layer["hash"] for layer in wattfarm.Network.read("resnet18", batch=2).layers}
        names = ["conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2"]
        known = [built_in[name] for name in (f"layer1.0.{name}" for name in names) if name in built_in]
        self.assertGreaterEqual(len(known), 5)
        self.assertTrue(set(known) <= set(own), "layer for layer")
        self.assertEqual(len(own), 7, "a dropout is nothing in inference")
        self.assertTrue(module.training and module.drop.training, "it is as it was")

    def test_no_weight_is_read(self):
        with self.torch.device("meta"):
            large = self.torch.nn.Linear(1 << 17, 1 << 17)
            embedding = self.torch.nn.Embedding(1 << 20, 1 << 14)
        network = wattfarm.Network.from_torch(large, (4, 1 << 17))
        self.assertEqual(network.layers[0]["parameters"], (1 << 34) + (1 << 17))
        words = self.torch.zeros(2, 9, dtype=self.torch.int64, device="meta")
        self.assertEqual(kinds(wattfarm.Network.from_torch(embedding, words)), ["embedding"])

    def test_what_pytorch_runs_as_one_call_is_one_layer(self):
        nn = self.torch.nn
        layer = nn.TransformerEncoderLayer(192, 3, 768, batch_first=True, norm_first=True, activation="gelu")
        block = wattfarm.Network.from_torch(layer, (2, 197, 192))
        wanted = ["layer_norm", "linear", "attention", "linear", "add", "layer_norm", "linear", "gelu", "linear", "add"]
        self.assertEqual(kinds(block), wanted)
        lstm = wattfarm.Network.from_torch(nn.LSTM(64, 96, batch_first=True), (2, 20, 64))
        self.assertEqual(kinds(lstm), ["lstm"])

    def test_number_types_and_several_arguments(self):
        torch = self.torch

        class Scaled(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.fc = torch.nn.Linear(8, 8)

            def forward(self, x, *, scale):
                return self.fc(x) * scale

        network = wattfarm.Network.from_torch(Scaled().half(), (3, 8), keywords={"scale": (3, 8)}, name="scaled")
        self.assertEqual(network.name, "scaled")
        self.assertEqual(kinds(network), ["linear", "mul"])
        self.assertEqual({layer["layer"]["dtype"] for layer in network.layers}, {"f16"})

    def test_errors_say_where(self):
        torch = self.torch

        class Gate(torch.nn.Module):
            def forward(self, x):
                return x if x.sum() > 0 else -x

        class Gated(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.gates = torch.nn.Sequential(torch.nn.ReLU(), Gate())

            def forward(self, x):
                return self.gates(x)

        def told(module, *arguments):
            with self.assertRaises(wattfarm.Error) as caught:
                wattfarm.Network.from_torch(module, *arguments)
            return str(caught.exception)

        gated = told(Gated(), (3, 4))
        self.assertRegex(gated, r"^`Gated` cannot be traced in `gates\.1` \(Gate\), at .*test_torch\.py:\d+: .*data-dependent")
        self.assertIn("depends on the values of tensors", gated)
        self.assertRegex(told(torch.nn.Linear(5, 5), (3, 4)), "^`Linear` cannot be traced in .*linear.py:")

        class Decomposed(torch.nn.Module):
            def forward(self, x):
                return torch.linalg.svd(x)[0]

        self.assertRegex(told(Decomposed(), (3, 4)), "^`Decomposed` cannot be translated to ONNX: .*svd")
        self.assertEqual(told(3, (3, 4)), "a torch.nn.Module is wanted, and this is a int")

    def test_layers_have_the_modules_names(self):
        block = wattfarm.Network.from_torch(self.basic_block(16), self.torch.zeros(1, 16, 8, 8))
        wide = block.changed(["conv1"], out_channels=24)
        reads = {layer["name"]: layer["layer"].get("in_channels") for layer in wide.layers}
        self.assertEqual(reads["conv2"], 24)

    def test_python_itself_costs_something(self):
        threads = self.torch.get_num_threads()
        overhead = wattfarm.measure_python_overhead(seconds=0.5)
        self.assertTrue(0.0 < overhead.us_per_operator < 1000.0, overhead)
        self.assertTrue(overhead.us_low <= overhead.us_per_operator <= overhead.us_high, overhead)
        self.assertGreaterEqual(overhead.rounds, 8)
        self.assertEqual(self.torch.get_num_threads(), threads, "as they were")


if __name__ == "__main__":
    if not IS_THERE:
        print("NOTE: torch and onnxscript are not installed, so tests of networks from modules are skipped "
              "(make python TORCH=1 brings them, 5 GB)", file=sys.stderr)
    unittest.main()
