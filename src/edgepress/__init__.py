"""edgepress: distilled language models, compressed, exported and measured for small devices.

The package is five rooms and the artifact between them:

    compress    a student in, a checkpoint of integers and scales out
    export      a checkpoint in, a GGUF file or an ONNX folder out
    runtime     one Session per engine: llama.cpp, ONNX Runtime, the torch reference
    benchmarks  quality, latency and memory of the exported file, in its own engine; the report
    profiles    recipes and devices, as data

``artifact`` holds what flows between them. ``pipeline`` joins the stages, ``cli`` is the command line.
"""

__version__ = "0.1.0"
