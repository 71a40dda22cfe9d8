"""Does llama.cpp cut a text into the same tokens as the tokenizer it was exported from?

Compared on texts that tell tokenizers apart: runs of digits and of spaces, contractions, scripts, code, joined emoji,
control tokens in the middle. All are in Unicode normal form C, since llama.cpp does not normalise and some tokenizers
do.

One difference is known and told, not refused: a tokenizer that puts a space before a text (Llama 2, Mistral) gets that
space in llama.cpp also after a control token and before a space that is there already. Every GGUF of such a model has
it, whoever wrote it.
"""

from __future__ import annotations

from pathlib import Path

from edgepress.errors import ParityError
from edgepress.export.gguf.tokenizer.files import TokenizerFiles, read_tokenizer_files
from edgepress.export.gguf.tokenizer.vocabulary import adds_space_prefix
from edgepress.progress import say
from edgepress.runtime.llamacpp_library import Vocabulary, VocabularyFile

HARD_TEXTS = (
    "Hello, world! How's it going? I'll be there; they've gone, he'd SAID 'DON'T'.",
    "In 1984 there were 12345 reasons, 3.14159 of them 1,000,000 years old: 0x1F, 2024-11-24, 7th.",
    "x  1 y   22\n  333 \t4444   55555     666666",
    "你好，世界。日本語のテキスト 한국어 문장 apple工作1314天",
    "Été naïve café, Straße, żółć, Ελλάδα, нещо, שלום, مرحبا",
    "हिन्दी สวัสดี កាន់តែពិសេស",
    "def area(radius):\n    return 3.14 * radius ** 2  # m²\n\n\tif (a != b && c[0] <= d) { e += 1; }\r\n",
    "one  two   three    four\n\n\nfive\t\tsix \n seven   ",
    # A joined emoji with a variation selector, and one of three people.
    "🚀 😶\u200d🌫\ufe0f 👩\u200d👩\u200d👧 ✅🦙🦙 (emoji)",
    "https://example.org/a_b/c?d=e&f=%20#g user.name@example.org C:\\temp\\x.txt",
    "<<>> ~~~ === --- ___ `code` \"quoted\" ‘curly’ … — – • ''''``````....!!!!??",
    "CamelCaseWords and SHOUTING, a trailing space ",
)
# Texts before which a space is added or not.
EDGE_TEXTS = (" a leading space", "  two of them", "\n")

_CONTROL_TOKENS = 3


def check_tokenizer(path: Path, tokenizer_dir: Path) -> None:
    """Compare the tokenizer inside a GGUF file, in llama.cpp, with the ``tokenizers`` library.

    Raises:
        ParityError: they differ; names the first text and where.
    """
    files = read_tokenizer_files(tokenizer_dir)
    wanted = reference_tokens(tokenizer_dir)
    if adds_space_prefix(files):
        edges = {text: wanted.pop(text) for text in (*EDGE_TEXTS, _with_control_tokens(files))}
        for difference in compare(path, edges):
            say(f"note: {difference} (a space before a text, which llama.cpp adds in more places)")
    differences = compare(path, wanted)
    if differences:
        raise ParityError(f"{path}: {differences[0]}")


def tokenizer_differences(path: Path, tokenizer_dir: Path) -> list[str]:
    """One line for each text that the two tokenize differently; empty when they agree on all."""
    return compare(path, reference_tokens(tokenizer_dir))


def reference_tokens(tokenizer_dir: Path) -> dict[str, list[int]]:
    """Text → ids by the ``tokenizers`` library, nothing added around the text.

    Raises:
        InputError: ``tokenizer.json`` is missing or damaged.
    """
    files = read_tokenizer_files(tokenizer_dir)
    texts = (*HARD_TEXTS, *EDGE_TEXTS, _with_control_tokens(files))
    return {text: list(files.reference.encode(text, add_special_tokens=False).ids) for text in texts}


def compare(path: Path, reference: dict[str, list[int]]) -> list[str]:
    """One line for each text that llama.cpp tokenizes differently from ``reference``."""
    found = []
    with VocabularyFile(path) as file:
        for text, wanted in reference.items():
            got = file.vocabulary.tokenize(text, special=True)
            if got != wanted:
                found.append(_difference(text, wanted, got, file.vocabulary))
    return found


def _with_control_tokens(files: TokenizerFiles) -> str:
    """A text with the first added tokens in its middle."""
    chosen = [token.content for token in files.added[:_CONTROL_TOKENS]]
    return "".join(f"before{content}after " for content in chosen) + "end"


def _difference(text: str, wanted: list[int], got: list[int], vocabulary: Vocabulary) -> str:
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))

    def show(ids: list[int]) -> str:
        return " ".join(repr(vocabulary.token_bytes(token))[1:] for token in ids[at : at + 4]) or "nothing more"

    return (
        f"llama.cpp tokenizes {text[:40]!r} differently from tokenizer.json: "
        f"at token {at} it has {show(got)} instead of {show(wanted)}"
    )
