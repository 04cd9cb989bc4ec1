"""What the scripts of bench/ start with: their servers come up, take an adapter and end. No figure is looked at."""
# SPDX-License-Identifier: Apache-2.0
import os
import sys
from types import SimpleNamespace

import pytest

from conftest import ROOT
from random_adapter import make


@pytest.fixture(scope="module")
def tools(binary):
    """bench/check.py and bench/bench_lora.py, with this run's binary."""
    sys.path.insert(0, os.path.join(ROOT, "bench"))
    import bench_lora
    import check
    check.ESPALIER = binary
    yield check, bench_lora
    sys.path.remove(os.path.join(ROOT, "bench"))


def test_the_server_of_timed_bars_serves_and_ends(tools, model, tmp_path):
    check, _ = tools
    check.MODEL = model
    server = check.start_server(tmp_path)
    try:
        server.wait_until_serving()
        assert server.stop() == 0
    finally:
        server.close()


def test_the_server_of_adapters_loads_and_unloads_one(tools, model, espalier, tmp_path):
    _, bench_lora = tools
    store = str(tmp_path / "store")
    espalier("adapter", "import", make(tmp_path / "one", seed=41, rank=4), "--name", "one", "--store", store)
    with bench_lora.Served(str(tmp_path / "served"), SimpleNamespace(model=model), store) as served:
        assert served.load("one").name == "one"
        served.unload("one")
