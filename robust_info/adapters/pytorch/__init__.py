"""PyTorch modules on JAX arrays, with the derivatives that PyTorch gives.

`adapter` has the adapter. `mode` and the modules that it uses import PyTorch
and torchax; they are imported when a module is adapted.
"""
