"""The package `wattfarm`, against a real coordinator and trainer and an agent that measures by a law. `make python` runs this.
"""

import io
import math
import pathlib
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import wattfarm  # noqa: E402

import test_protocol  # noqa: E402

NETWORKS = ROOT / "onnx" / "tests" / "networks"


class Networks(unittest.TestCase):
    """What needs no farm."""

    def test_a_file_is_the_built_in_network(self):
        file = wattfarm.Network.read(NETWORKS / "resnet18.onnx", batch=2)
        built_in = wattfarm.Network.read("resnet18", batch=2)
        self.assertEqual((file.name, file.batch), ("resnet18", 2))
        hashes = lambda network: sorted(layer["hash"] for layer in network.layers if layer["flops"])  # noqa: E731
        self.assertEqual(hashes(file), hashes(built_in))
        self.assertEqual(file.warnings, [])
        first = built_in.layers[0]
        self.assertEqual(first["name"], "conv1")
        self.assertEqual(first["layer"]["kind"], "conv2d")
        self.assertEqual(first["layer"]["out_channels"], 64)

    def test_a_file_may_be_bytes_or_open(self):
        path = NETWORKS / "resnet18.onnx"
        known = wattfarm.Network.read(path, batch=3, name="net")
        with path.open("rb") as file:
            for source in (path.read_bytes(), io.BytesIO(path.read_bytes()), file):
                network = wattfarm.Network.read(source, batch=3, name="net")
                self.assertEqual((network.name, network.layers), ("net", known.layers))
        for source, reason in ((b"PK", "no whole ONNX file"), (io.StringIO("text"), "read the file"), (7, "has no attribute")):
            with self.assertRaisesRegex(wattfarm.Error, reason):
                wattfarm.Network.read(source)

    def test_caffes_description_is_read(self):
        nin = wattfarm.Network.read(ROOT / "caffe" / "tests" / "networks" / "nin.prototxt", batch=1)
        self.assertEqual(sum(layer["layer"]["kind"] == "conv2d" for layer in nin.layers), 12)

    def test_a_change_flows(self):
        wide = wattfarm.Network.read("vgg16").changed("features.28", out_channels=384)
        reads = {layer["name"]: layer["layer"].get("in_features") for layer in wide.layers}
        self.assertEqual(reads["classifier.0"], 384 * 7 * 7)

    def test_errors_say_what_and_where(self):
        def told(call, *arguments, **fields):
            with self.assertRaises(wattfarm.Error) as caught:
                call(*arguments, **fields)
            return str(caught.exception)

        self.assertIn("`resnet19` is not a built-in network", told(wattfarm.Network.read, "resnet19"))
        self.assertIn("No such file", told(wattfarm.Network.read, "missing.onnx"))
        resnet18 = wattfarm.Network.read("resnet18")
        self.assertIn("node 9 (`layer1.0.add`)", told(resnet18.changed, "layer1.0.conv2", out_channels=48))
        layer = {"kind": "linear", "batch": 8, "out_features": 10}
        self.assertEqual(
            told(wattfarm.Network.of_layers, "mlp", [("fc", layer)]),
            "layer `fc`: in_features: missing for linear",
        )
        self.assertIn("not a share of errors", told(wattfarm.epr, 24.0, 1.0, 1.0))

    def test_ratios_are_the_papers(self):
        """Table 7 of the NeuralPower paper, of AlexNet."""
        published = [10.086, 1.715, 0.291, 0.050]
        for alpha, value in enumerate(published, start=1):
            self.assertAlmostEqual(wattfarm.epr(0.17, alpha, 7594 / 128), value, delta=0.002)
        points = [(1.0, 9.0), (2.0, 5.0), (3.0, 5.0)]
        self.assertEqual(wattfarm.pareto_front(points), [True, True, False])


class Farm(test_protocol.Farm):
    """What needs one. The protocol's own tests are elsewhere."""

    test_models_are_requested_and_fetched = None
    test_errors_have_codes_and_fields = None
    test_any_client_can_explore = None

    def test_models_are_requested_fetched_and_predict(self):
        _, authorization, slug = self.enrol()
        stopping = threading.Event()
        worker = threading.Thread(target=self.work, args=(authorization, stopping))
        worker.start()
        self.addCleanup(worker.join)
        self.addCleanup(stopping.set)
        farm = wattfarm.Farm(self.address)
        self.addCleanup(farm.close)
        self.assertIn(slug, [platform.slug for platform in farm.platforms()])

        campaign = farm.request(slug, kinds=["relu", "linear"], jobs=120)
        again = farm.request(slug, kinds=["relu", "linear"], jobs=120, campaign_id=campaign.id)
        self.assertEqual(campaign.id, again.id)
        *_, last = farm.watch(campaign)
        self.assertEqual((last.state, last.jobs_done, last.platform), ("exhausted", 120, slug))

        def fetched():
            models = farm.fetch(slug)
            kinds = {model["kind"] for model in models if model["samples"] >= 40}
            return models if kinds == {"relu", "linear"} else None

        models = test_protocol.wait_for("both models", fetched)
        self.assertEqual(models.platform, slug)
        self.assert_predictions_follow_the_law(models)

    def assert_predictions_follow_the_law(self, models: wattfarm.Models):
        layers = [
            ("fc", {"kind": "linear", "batch": 1, "in_features": 1111, "out_features": 777, "bias": False}),
            ("act", {"kind": "relu", "batch": 1, "features": 777}),
        ]
        network = wattfarm.Network.of_layers("two", layers)
        prediction = models.predict(network)
        self.assertEqual([layer["name"] for layer in prediction.layers], ["fc", "act"])
        for layer, law_ms in zip(prediction.layers, [0.01 + 1e-7 * 1111 * 777, 0.01 + 1e-6 * 777]):
            self.assertLess(abs(math.log(layer["runtime_ms"] / law_ms)), 0.3, layer["name"])
        total = sum(layer["runtime_ms"] for layer in prediction.layers)
        self.assertAlmostEqual(prediction.total["runtime_ms"], total)
        self.assertIsNone(prediction.total["power_w"], "no meter, no power")
        self.assertIsNone(prediction.python_overhead_ms)
        from_python = wattfarm.PythonOverhead(us_per_operator=5.0, us_low=4.0, us_high=6.0, rounds=8)
        called = models.predict(network, python=from_python)
        apart = (called.python_overhead_ms_low, called.python_overhead_ms, called.python_overhead_ms_high)
        self.assertEqual(apart, (2 * 4.0 / 1e3, 2 * 5.0 / 1e3, 2 * 6.0 / 1e3))
        self.assertEqual(called.total, prediction.total, "it is a term apart")

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "models.json")
            models.write(path)
            self.assertEqual(wattfarm.predict(network, path), prediction, "as well without a farm")
        whole = wattfarm.predict(NETWORKS / "resnet18.onnx", models, batch=8)
        self.assertEqual(whole.batch, 8)
        self.assertTrue(any(warning.startswith("no model for conv2d") for warning in whole.warnings))
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError:
            return
        frame = whole.frame()
        self.assertEqual(len(frame), len(whole.layers))
        self.assertGreater(frame.groupby("kind")["flops"].sum()["conv2d"], 28e9)

    def test_what_the_coordinator_refuses_is_an_error(self):
        farm = wattfarm.Farm(self.address)
        self.addCleanup(farm.close)
        with self.assertRaisesRegex(wattfarm.Error, "NOT_FOUND"):
            farm.fetch("no-such-platform")
        with self.assertRaisesRegex(wattfarm.Error, "a budget of jobs or of seconds"):
            farm.request("any")
        nobody = wattfarm.Farm("127.0.0.1:1")
        self.addCleanup(nobody.close)
        with self.assertRaisesRegex(wattfarm.Error, "127.0.0.1:1 cannot be reached"):
            nobody.platforms()


if __name__ == "__main__":
    unittest.main()
