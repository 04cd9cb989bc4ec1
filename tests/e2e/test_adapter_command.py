"""espalier adapter: import, list, show, alias, remove; exit codes, JSON, hostile names and files."""
# SPDX-License-Identifier: Apache-2.0
import concurrent.futures
import hashlib
import json
import os
import struct
import subprocess

import numpy as np
import pytest

USAGE, DATA, NO_INPUT, CONFIG = 64, 65, 66, 78
HIDDEN, KV, LAYERS = 576, 192, 30  # SmolLM2-135M


def write_adapter(folder, seed=1, rank=4, layers=LAYERS, target="self_attn.v_proj", rows=KV, cols=HIDDEN, **config):
    """A PEFT folder: random float32 A and B of one target in each layer."""
    random = np.random.default_rng(seed)
    header, data = {}, b""
    for layer in range(layers):
        for piece, shape in (("A", (rank, cols)), ("B", (rows, rank))):
            values = random.normal(0, 0.02, shape).astype("<f4").tobytes()
            name = f"base_model.model.model.layers.{layer}.{target}.lora_{piece}.weight"
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
    text = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": [target.split(".")[-1]],
        "task_type": "CAUSAL_LM", "base_model_name_or_path": "SmolLM2-135M-Instruct"} | config))
    return folder


def digest_of(folder):
    lines = "".join(f"{hashlib.sha256((folder / n).read_bytes()).hexdigest()}  {n}\n"
                    for n in ("adapter_config.json", "adapter_model.safetensors"))
    return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


@pytest.fixture
def adapter(espalier, tmp_path):
    """adapter("import", folder, "--name", "a") in a store of the test's own."""
    return lambda *words, **more: espalier("adapter", *words, "--store", tmp_path / "store", **more)


@pytest.fixture
def source(tmp_path):
    return lambda seed=1, **more: write_adapter(tmp_path / f"source-{seed}", seed, **more)


def sentence(done):
    """A failure says one line on stderr, and nothing on stdout."""
    assert done.stdout == "" and len(done.stderr.strip().splitlines()) == 1, done
    return done.stderr


def entries(folder):
    return sorted(os.listdir(folder))


def test_help_teaches(espalier):
    for words in (("adapter",), ("adapter", "--help")):
        told = espalier(*words).stdout
        assert all(f"\n  {c} " in told for c in ("import", "list", "show", "alias", "remove"))
    for command in ("import", "list", "show", "alias", "remove"):
        told = espalier("adapter", command, "--help").stdout
        assert f"usage: espalier adapter {command}" in told and "examples" in told and "--store" in told


@pytest.mark.smoke
def test_an_adapter_is_imported_listed_and_removed(adapter, source, model, tmp_path):
    folder = source()
    done = adapter("import", folder, "--name", "intents", "--base", model)
    assert done.stdout.startswith(f"intents@1  {digest_of(folder)}  rank 4 on v_proj")
    assert done.stderr == ""
    rows = json.loads(adapter("list", "--json").stdout)
    assert [(r["name"], r["version"], r["digest"], r["rank_min"], r["rank_max"], r["targets"], r["base"])
            for r in rows] == [("intents", 1, digest_of(folder), 4, 4, "v_proj", "SmolLM2-135M-Instruct")]
    assert rows[0]["bytes"] == sum(f.stat().st_size for f in folder.iterdir())
    assert "intents" in adapter("list").stdout
    assert adapter("remove", "intents").stdout == "removed intents: 1 version\n"
    assert json.loads(adapter("list", "--json").stdout) == []
    assert entries(tmp_path / "store" / "blobs" / "sha256") == entries(tmp_path / "store" / "stage") == []


def test_versions_aliases_and_digests(adapter, source):
    for seed in (1, 2, 3):
        adapter("import", source(seed), "--name", "a", *(["--keep-alias"] if seed == 3 else []))
    shown = json.loads(adapter("show", "a", "--json").stdout)
    assert shown["version"] == shown["alias"] == 2 and [v["version"] for v in shown["versions"]] == [1, 2, 3]
    assert adapter("alias", "a", "3").stdout == "a -> a@3\n"
    assert json.loads(adapter("show", "a", "--json").stdout)["version"] == 3
    first = shown["versions"][0]["digest"]
    by_prefix = json.loads(adapter("show", "a@" + first[:19], "--json").stdout)
    assert by_prefix["version"] == 1 and by_prefix["digest"] == first
    assert os.path.isdir(by_prefix["path"])
    assert "<- the bare name" in adapter("show", "a@1").stdout
    assert "move the alias first" in sentence(adapter("remove", "a@3", code=CONFIG))
    adapter("remove", "a@1")
    assert "its versions: 2, 3" in sentence(adapter("show", "a@1", code=NO_INPUT))
    assert "its versions" in sentence(adapter("alias", "a", "1", code=NO_INPUT))
    again = json.loads(adapter("import", source(3), "--name", "a", "--json").stdout)
    assert again["version"] == 3  # its content is there
    assert json.loads(adapter("import", source(1), "--name", "a", "--json").stdout)["version"] == 4


def test_the_declared_digest_is_held_to(adapter, source):
    folder = source()
    assert "declared" in sentence(adapter("import", folder, "--name", "a", "--digest", "sha256:" + "0" * 64, code=DATA))
    sentence(adapter("import", folder, "--name", "a", "--digest", "0" * 64, code=DATA))
    adapter("import", folder, "--name", "a", "--digest", digest_of(folder))


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a..b", ".a", "a b", "a%2e%2e", "intents\u0430", "caf\u00e9",
                                  "a" * 300, "a@1", "con\u200b"])
def test_names_are_refused(adapter, source, tmp_path, name):
    message = sentence(adapter("import", source(), "--name", name, code=DATA))
    assert "wanted 1 to 128 of a-z" in message
    for words in (("show", name), ("remove", name)):
        if "@" not in name:
            sentence(adapter(*words, code=None))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("words", [
    ("dance",), ("import",), ("import", "x"), ("import", "x", "y", "--name", "a"), ("show",), ("alias", "a"),
    ("alias", "a", "one"), ("alias", "a", "0"), ("alias", "a", "1", "2"), ("list", "x"), ("remove", "--all")],
    ids=" ".join)
def test_wrong_usage_is_exit_64(espalier, words):
    sentence(espalier("adapter", *words, code=USAGE))


def test_a_store_that_is_not_there_is_told(adapter):
    for words in (("list",), ("show", "a"), ("remove", "a"), ("alias", "a", "1")):
        assert "no adapter store is there" in sentence(adapter(*words, code=NO_INPUT))


def test_the_default_store_is_the_users(espalier, binary, source, tmp_path):
    run = lambda *words, **env: subprocess.run([binary, "adapter", *map(str, words)], env=env, text=True,
                                               capture_output=True, check=True).stdout
    run("import", source(), "--name", "a", HOME=str(tmp_path))
    assert (tmp_path / ".local/share/espalier/adapters/names/a.json").exists()
    run("import", source(), "--name", "b", HOME="/nowhere", XDG_DATA_HOME=str(tmp_path / "data"))
    assert json.loads(run("list", "--json", XDG_DATA_HOME=str(tmp_path / "data")))[0]["name"] == "b"
    nowhere = subprocess.run([binary, "adapter", "list"], env={}, capture_output=True, text=True)
    assert nowhere.returncode == USAGE and "give --store DIR" in nowhere.stderr


@pytest.mark.parametrize("change, said", [
    (dict(rows=KV + 1), "v_proj"), (dict(cols=HIDDEN - 1), "v_proj"), (dict(layers=LAYERS + 1), "layer"),
    (dict(target="self_attn.w_proj"), "w_proj"), (dict(lora_alpha=0), "lora_alpha"),
    (dict(r=0), "r"), (dict(peft_type="IA3"), "peft_type")], ids=str)
def test_an_adapter_of_another_base_is_refused_and_the_old_version_stays(adapter, source, model, tmp_path, change, said):
    adapter("import", source(1), "--name", "a", "--base", model)
    message = sentence(adapter("import", source(2, **change), "--name", "a", "--base", model, code=DATA))
    assert said in message
    assert json.loads(adapter("show", "a", "--json").stdout)["version"] == 1
    assert entries(tmp_path / "store" / "stage") == [] and len(entries(tmp_path / "store" / "blobs" / "sha256")) == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused_without_a_base_too(adapter, source, value):
    folder = source()
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + struct.pack("<f", value))
    assert "finite" in sentence(adapter("import", folder, "--name", "a", code=DATA))


def test_sources_that_are_no_adapters(adapter, source, tmp_path):
    assert "cannot open" in sentence(adapter("import", tmp_path / "absent", "--name", "a", code=NO_INPUT))
    (tmp_path / "empty").mkdir()
    assert "adapter_config.json" in sentence(adapter("import", tmp_path / "empty", "--name", "a", code=NO_INPUT))
    sentence(adapter("import", "/dev/null", "--name", "a", code=DATA))
    folder = source()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "pickle" in sentence(adapter("import", folder, "--name", "a", code=NO_INPUT))
    (folder / "adapter_model.safetensors").symlink_to("/dev/zero")
    sentence(adapter("import", folder, "--name", "a", code=DATA))


def test_changed_bytes_are_found_and_mended(adapter, source):
    adapter("import", source(), "--name", "a")
    path = json.loads(adapter("show", "a", "--json").stdout)["path"]
    file = os.path.join(path, "adapter_model.safetensors")
    with open(file, "r+b") as f:
        f.seek(-1, os.SEEK_END)
        f.write(b"\x01")
    adapter("show", "a")
    assert "import it again" in sentence(adapter("show", "a", "--verify", code=DATA))
    adapter("import", source(), "--name", "a")
    adapter("show", "a", "--verify")


def test_a_damaged_manifest_is_told_and_the_others_are_listed(adapter, source):
    for seed, name in enumerate("abc"):
        adapter("import", source(seed), "--name", name)
    with open(os.path.join(json.loads(adapter("show", "b", "--json").stdout)["path"], "manifest.json"), "w") as f:
        f.write("{}")
    done = adapter("list", "--json", code=DATA)
    rows = json.loads(done.stdout)
    assert [r["name"] for r in rows] == ["a", "b", "c"] and "damaged" in rows[1]["error"]
    assert "error" not in rows[0] and len(done.stderr.splitlines()) == 1 and "b: " in done.stderr
    adapter("import", source(1), "--name", "b")
    assert len(json.loads(adapter("list", "--json").stdout)) == 3


def test_imports_beside_each_other_lose_nothing(adapter, source, tmp_path):
    folders = [source(seed) for seed in range(1, 13)]
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda f: adapter("import", f, "--name", "shared"), folders))
    shown = json.loads(adapter("show", "shared", "--json").stdout)
    assert sorted(v["digest"] for v in shown["versions"]) == sorted(map(digest_of, folders))
    assert [v["version"] for v in shown["versions"]] == list(range(1, 13))
    assert entries(tmp_path / "store" / "stage") == entries(tmp_path / "store" / "unsure") == []


def test_a_killed_import_leaves_nothing(adapter, binary, source, tmp_path):
    """Killed at many moments of a copy; the next command clears up, and the old version is whole."""
    adapter("import", source(1), "--name", "a")
    large = source(2, rank=256)
    words = [binary, "adapter", "import", str(large), "--name", "a", "--store", str(tmp_path / "store")]
    for delay in (0.002, 0.005, 0.01, 0.02, 0.03, 0.05):
        with subprocess.Popen(words, stdout=subprocess.DEVNULL) as running:
            try:
                running.wait(delay)
            except subprocess.TimeoutExpired:
                running.kill()
        versions = json.loads(adapter("show", "a", "--verify", "--json").stdout)["versions"]
        assert entries(tmp_path / "store" / "stage") == entries(tmp_path / "store" / "unsure") == []
        assert len(entries(tmp_path / "store" / "blobs" / "sha256")) == len(versions)


def test_an_adapter_of_another_base_is_refused_by_its_name(adapter, source, espalier, model):
    """Its shapes fit, but both files say what they are, and it is not the same."""
    folder = source(base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    refused = sentence(adapter("import", folder, "--name", "other", "--base", model, code=DATA))
    assert "trained on Qwen/Qwen2.5-0.5B" in refused and "--allow-other-base" in refused
    ask = ("generate", "--model", model, "--adapter", f"other={folder}", "--prompt", "Hi", "--max-tokens", 2)
    assert "trained on Qwen/Qwen2.5-0.5B" in espalier(*ask, code=DATA).stderr
    assert espalier(*ask, "--allow-other-base").stdout
    adapter("import", folder, "--name", "other", "--base", model, "--allow-other-base")
