"""GGUF files for llama.cpp.

check_gguf_support    refuse what llama.cpp cannot represent, before any work
predict_gguf_bytes    the file's exact size, before any work
export_gguf           write it
verify_gguf           read it back, compare every integer
check_tokenizer       compare llama.cpp's tokenizer with the original one
"""

from edgepress.export.gguf.support import check_gguf_support
from edgepress.export.gguf.tokenizer import check_tokenizer, tokenizer_differences
from edgepress.export.gguf.verify import verify_gguf
from edgepress.export.gguf.writer import export_gguf, predict_gguf_bytes

__all__ = [
    "check_gguf_support",
    "check_tokenizer",
    "export_gguf",
    "predict_gguf_bytes",
    "tokenizer_differences",
    "verify_gguf",
]
