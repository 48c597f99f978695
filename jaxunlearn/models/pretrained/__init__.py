"""Weights from elsewhere: published safetensors layouts, read into the models here and back.

A *layout* is a set of tensor names and shapes that the world shares weights in. Each family of
models has a file of its own, which says how its layout's names and options map on ours:

    module, params = load_<family>(folder)        save_<family>(folder, module, params)

All of them read and write through `jaxunlearn.models.pretrained.tensors`. Only safetensors are
read: no pickle, nothing from the network.
"""
