"""Operators with their kernels: each folder holds the definition (`reference`), the CPU form and the Triton form."""
