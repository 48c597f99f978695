"""Costs and savings of streaming: the same run with its data in memory and on disk.

    python experiments/benchmarks/streaming.py        (about 3 minutes on two cores)

Writes 200 MB of random images into two memory-mapped files, and trains an MLP on them for a few
hundred steps, in a process of its own each time: with all data in memory, and streamed by grain in
chunks of 20 steps. Reports how much anonymous memory (of the process itself, without mapped
files) each run took at most beyond what it had before it saw the data, how long it took without
compilation, and whether the weights are the same to the bit. Writes `results/streaming.json` beside
this file.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxunlearn import methods, models, training
from jaxunlearn.files import fingerprint
from jaxunlearn.tasks import classification
from jaxunlearn.training.devices import make_mesh
from jaxunlearn.training.hosts import machine
from jaxunlearn.training.streaming import Columns, Stream

SIZE, SHAPE, BATCH, STEPS, CHUNK = 65_536, (32, 32, 3), 128, 300, 20
RESULTS = Path(__file__).parent / "results"


def write_data(folder: Path) -> None:
    """Random images and labels, block by block."""
    rng = np.random.default_rng(0)
    files = {"image": (np.uint8, SHAPE, 256), "label": (np.int32, (), 10)}
    for name, (dtype, shape, high) in files.items():
        path, whole = folder / f"{name}.npy", (SIZE, *shape)
        values = np.lib.format.open_memmap(path, "w+", dtype, whole)
        for first in range(0, SIZE, 4096):
            values[first : first + 4096] = rng.integers(0, high, (4096, *shape))
        values.flush()


def anonymous() -> int:
    """Bytes of memory of this process that no file backs."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("RssAnon")))


def train(folder: Path, streamed: bool) -> dict[str, Any]:
    """One run, with the most memory it took."""
    image, label = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("image", "label"))
    module = models.create("mlp", 10)
    task = classification(module, image_shape=SHAPE, num_classes=10)
    settings = methods.settings("finetune", {"num_steps": STEPS, "learning_rate": 0.01})
    program = training.compile_program(
        lambda numbers: methods.build(task, "finetune", settings | numbers),
        forget_batch_size=1,
        retain_batch_size=BATCH,
        chunk_steps=CHUNK,
        mesh=make_mesh(1),
    )
    start = jax.jit(task.init)(jax.random.key(0))
    index = np.arange(SIZE, dtype=np.int32)
    forget = {"image": image[:1], "label": label[:1], "index": index[:1]}
    before, samples, over = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.01):
            samples.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    retain: Any = Stream(Columns(image, label), index)
    if not streamed:
        retain = {"image": jnp.asarray(image), "label": jnp.asarray(label), "index": index}
    clock = time.perf_counter()
    outcome = training.run(
        program, {}, start, jax.tree.map(jnp.asarray, forget), retain, num_steps=STEPS, seed=0
    )
    elapsed = time.perf_counter() - clock
    over.set()
    watcher.join()
    return {
        "memory_mb": round((max(samples) - before) / 1e6, 1),
        "seconds": round(outcome.seconds, 2),
        "seconds_with_compilation": round(elapsed, 2),
        "weights": fingerprint(outcome.state.params),
    }


def main() -> None:
    """Both runs, each in a process of its own, and the result file."""
    if len(sys.argv) > 1:
        print(json.dumps(train(Path(sys.argv[1]), sys.argv[2] == "streamed")))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        runs = {}
        for kind in ("memory", "streamed"):
            words = [sys.executable, __file__, folder, kind]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            runs[kind] = json.loads(done.stdout.splitlines()[-1])
            print(kind, runs[kind], flush=True)
    result = {
        "machine": machine(),
        "data_mb": round(size / 1e6, 1),
        "chunk_mb": round(CHUNK * BATCH * np.prod(SHAPE) / 1e6, 1),
        "steps": STEPS,
        "batch": BATCH,
        "runs": runs,
        "same_bits": runs["memory"]["weights"] == runs["streamed"]["weights"],
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "streaming.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
