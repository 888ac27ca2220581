"""The part of vLLM 0.33.0 that hotstart's load format stands on: names and signatures, not vLLM's code.

vLLM is 340 MB without the CUDA packages that it cannot be imported without. So the suite runs the load format
against this, and ``python -m tests.clients.vllm_api`` compares this with an installed vLLM.
"""
