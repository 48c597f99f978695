"""The version of the library, readable without importing JAX."""

__version__ = "0.2.0"
