"""The notebook, run cell by cell against a real coordinator, and without one. `make python` runs this."""

import os
import pathlib
import sys
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))

import jupyter_client  # noqa: E402
import nbclient  # noqa: E402
import nbformat  # noqa: E402
import wattfarm  # noqa: E402

import test_protocol  # noqa: E402

NOTEBOOK = ROOT / "python" / "notebook" / "predict.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(notebook, kind):
    """What the cells show of a kind, such as `image/png`."""
    outputs = [output for cell in code(notebook) for output in cell.outputs]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


class Notebook(test_protocol.Farm):
    test_models_are_requested_and_fetched = None
    test_errors_have_codes_and_fields = None
    test_any_client_can_explore = None

    def run_notebook(self, **variables):
        """The notebook as it is afterwards; a cell that raises fails the test with what it said."""
        folder = pathlib.Path(self.folder.name)
        paths = [str(ROOT / "python"), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("WATTFARM_")}
        environment |= {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, paths)), "IPYTHONDIR": str(folder / "ipython")}
        environment |= {"MPLCONFIGDIR": str(folder / "matplotlib"), "JUPYTER_RUNTIME_DIR": str(folder / "jupyter")}
        notebook = read()
        resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
        # Over sockets in a folder that nobody else may enter, not over ports.
        kernel = jupyter_client.AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(folder / "kernel"))
        client = nbclient.NotebookClient(notebook, km=kernel, timeout=120, resources=resources)
        client.execute(env=environment | variables)
        return notebook

    def test_every_cell_runs_with_a_farm_and_without(self):
        _, authorization, slug = self.enrol()
        stopping = threading.Event()
        worker = threading.Thread(target=self.work, args=(authorization, stopping))
        worker.start()
        self.addCleanup(worker.join)
        self.addCleanup(stopping.set)
        with wattfarm.Farm(self.address) as farm:
            *_, _ = farm.watch(farm.request(slug, kinds=["relu", "linear"], jobs=60))

            def fetched():
                models = farm.fetch(slug)
                return models if {model["kind"] for model in models} == {"relu", "linear"} else None

            models = test_protocol.wait_for("both models", fetched)
        with_farm = self.run_notebook(WATTFARM_COORDINATOR=self.address)
        self.assertIn(slug, code(with_farm)[0].outputs[0].text)
        self.assertEqual(len(shown(with_farm, "image/png")), 2)
        self.assertGreaterEqual(len(shown(with_farm, "text/html")), 5, "tables of pandas'")
        self.assert_follows_the_law(with_farm)

        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder, "models.json")
            models.write(path)
            without = self.run_notebook(WATTFARM_MODELS=str(path))
        self.assertIn(slug, code(without)[0].outputs[0].text)
        self.assert_follows_the_law(without)

    def assert_follows_the_law(self, notebook):
        """The layers by hand, by the law that the agent measures by: 10 us, and 0.1 ns a product."""
        [mlp] = [cell for cell in code(notebook) if "of_layers" in cell.source]
        [table] = [output.data["text/plain"] for output in mlp.outputs]
        predicted_ms = {line.split()[1]: float(line.split()[3]) for line in table.splitlines()[1:]}
        law_ms = 0.01 + 1e-7 * 32 * 784 * 512
        self.assertLess(abs(predicted_ms["fc1"] / law_ms - 1), 0.4)

    def test_what_is_committed_has_been_run(self):
        notebook = read()
        self.assertEqual([cell.execution_count for cell in code(notebook)], list(range(1, len(code(notebook)) + 1)))
        errors = [output for cell in code(notebook) for output in cell.outputs if output.output_type == "error"]
        self.assertEqual(errors, [])
        self.assertEqual(len(shown(notebook, "image/png")), 2)
        self.assertLess(NOTEBOOK.stat().st_size, 128 << 10)


if __name__ == "__main__":
    unittest.main()
