"""Runs TFF computations inside this process: no worker, any device.

`context` is the entrance; docs/runtime.md has a diagram. Nothing is imported here.
"""
