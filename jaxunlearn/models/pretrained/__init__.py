"""Weights of other libraries: published safetensors layouts, read into our models and written back.

A *layout* is a published set of tensor names and shapes. Each family of models has a file with the
tables that map the names and options of its layout to ours:

    module, params = load_<family>(folder)        save_<family>(folder, module, params)

All use `jaxunlearn.models.pretrained.tensors`. `find` recognises the layout of a file or folder,
`save` writes a model back. Only safetensors files are read: no pickles, and nothing from the
network.
"""

from jaxunlearn.models.pretrained.recognise import Found, find
from jaxunlearn.models.pretrained.saving import save, save_adapters

__all__ = ["Found", "find", "save", "save_adapters"]
