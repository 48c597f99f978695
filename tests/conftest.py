"""Settings for all tests: eight CPU devices, no broadcasting between ranks, quick compilation.

Tests compile hundreds of tiny programs and run each a few times, so XLA is asked not to optimise
them, which halves the time, and not to split them between threads, which saves a sixth of the rest:
all cores are at work already. Everything passes without these flags too: `XLA_FLAGS= make test`.
Tracing makes objects by the million, so that Python looks for garbage less often as well.
"""

import gc
import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + " --xla_cpu_use_fusion_emitters=false"  # an unknown flag ends the process
    * importlib.metadata.version("jax").startswith("0.10."),
)

import jax

gc.set_threshold(20_000, 25, 25)
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
