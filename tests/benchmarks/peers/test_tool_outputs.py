"""What llama-perplexity and AutoRound print is read as printed. The texts are cut from outputs of real runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tiny_models import make_model_dir

from edgepress.benchmarks.peers.autoround import SPARE, parse_output, write_samples
from edgepress.benchmarks.peers.llama_tools import Tools, parse_divergence, system_info
from edgepress.benchmarks.peers.measured import run_measured
from edgepress.errors import EdgepressError, InputError

PERPLEXITY = """
system_info: n_threads = 2 (n_threads_batch = 2) / 2 | CPU : SSE3 = 1 | SSSE3 = 1 | AVX = 1 | AVX2 = 1 | REPACK = 1 |
  40      17.0496 ±    0.5002       0.06834 ±    0.00387       0.05728 ±    0.00084     6.244 ±  0.147 %    87.500 ±  0.327 %

====== Perplexity statistics ======
Mean PPL(Q)                   :  17.049585 ±   0.500215
Mean PPL(base)                :  15.923272 ±   0.463390
Cor(ln(PPL(Q)), ln(PPL(base))):  99.12%
Mean PPL(Q)/PPL(base)         :   1.070734 ±   0.004147

====== KL divergence statistics ======
Mean    KLD:   0.057279 ±   0.000839
Maximum KLD:   1.986877
99.9%   KLD:   0.973772
99.0%   KLD:   0.390539
95.0%   KLD:   0.175802
Minimum KLD:  -0.000009

====== Token probability statistics ======
Mean    Δp: -1.103 ± 0.061 %
RMS Δp    :  6.244 ± 0.147 %
Same top p: 87.500 ± 0.327 %
"""  # noqa: E501

AUTOROUND = """
Filter: 100%|██████████| 8/8 [00:00<00:00, 3820.38 examples/s]
Saving the dataset (0/1 shards):   0%|          | 0/8 [00:00<?, ? examples/s]
Saving the dataset (1/1 shards): 100%|██████████| 8/8 [00:00<00:00, 1224.12 examples/s]
INFO device.py L1553: 'peak_ram': 0.72GB
\x1b[38;20mquantized 7/7 layers in the block, loss iter 0: 5.313e-06 -> iter 0: 5.313e-06\x1b[0m
\x1b[38;20mINFO orchestrator.py L819: quantization tuning time 137.53176593780518\x1b[0m
\x1b[38;20mINFO orchestrator.py L838: Summary: quantized 210/211 in the model, unquantized layers: lm_head\x1b[0m
INFO export.py L310: Model successfully exported to ar0/off0-gguf/off0-135M-Q4_0.gguf, running time=4.688050031661987
"""


def test_every_figure_of_llama_perplexity_is_found_in_its_line() -> None:
    read = parse_divergence(PERPLEXITY)
    assert (read.kld_mean, read.kld_se) == (0.057279, 0.000839)
    assert (read.kld_p99, read.kld_max) == (0.390539, 1.986877)
    assert (read.top1_agreement_percent, read.top1_se_percent) == (87.5, 0.327)
    assert (read.ppl, read.ppl_se, read.ppl_reference) == (17.049585, 0.500215, 15.923272)


def test_a_cut_output_of_llama_perplexity_is_refused_by_name() -> None:
    with pytest.raises(EdgepressError, match="kld_p99"):
        parse_divergence(PERPLEXITY.replace("99.0%   KLD", ""))


def test_the_instruction_sets_are_read_and_may_be_missing() -> None:
    assert system_info(PERPLEXITY).startswith("CPU : SSE3 = 1 | SSSE3 = 1")
    assert system_info("nothing of the kind") == ""


def test_autoround_says_how_many_samples_it_kept_and_how_long_it_tuned() -> None:
    said = parse_output(AUTOROUND)
    assert said.samples == 8
    assert said.tuning_s == pytest.approx(137.53176593780518)
    assert (said.quantized_layers, said.layers) == (210, 211)
    assert said.block_losses == ((5.313e-06, 5.313e-06),)


def test_an_autoround_that_words_it_otherwise_is_refused() -> None:
    with pytest.raises(EdgepressError, match="tuning time"):
        parse_output(AUTOROUND.replace("tuning time", "took"))


def test_every_sample_for_autoround_reads_back_as_long_as_was_asked(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    student = make_model_dir("llama", tmp_path / "student")
    tokenizer = Tokenizer.from_file(str(student / "tokenizer.json"))
    text = "The quick brown fox jumps over the lazy dog. " * 40
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    samples = (len(ids) - SPARE) // 24
    write_samples(text, student, tmp_path / "lines", samples=samples, length=24)
    lines = [json.loads(line)["text"] for line in (tmp_path / "lines").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == samples
    for index, line in enumerate(lines):
        assert line in text
        again = tokenizer.encode(line, add_special_tokens=False).ids
        assert again[:24] == ids[24 * index : 24 * (index + 1)]
    with pytest.raises(InputError, match="tokens"):
        write_samples(text, student, tmp_path / "more", samples=samples + 1, length=24)


def test_the_peak_is_the_childs_and_not_the_parents(tmp_path: Path) -> None:
    small = [sys.executable, "-c", "pass"]
    held = bytearray(400 << 20)  # this process now holds more than a bare interpreter ever does
    held[:: 1 << 12] = b"x" * len(held[:: 1 << 12])
    assert run_measured(small, tmp_path / "small.log").peak_rss_bytes < 200 << 20
    del held
    large = [sys.executable, "-c", "held = b'x' * (300 << 20); print(len(held))"]
    assert run_measured(large, tmp_path / "large.log").peak_rss_bytes > 300 << 20


def test_what_a_command_says_on_stderr_can_be_kept_apart(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; print(1); print(2, file=sys.stderr)"]
    run_measured(command, tmp_path / "out", errors=tmp_path / "err")
    assert ((tmp_path / "out").read_text(), (tmp_path / "err").read_text()) == ("1\n", "2\n")
    with pytest.raises(EdgepressError, match=r"exit code 3.*err"):
        run_measured([sys.executable, "-c", "exit(3)"], tmp_path / "out", errors=tmp_path / "err")


def test_an_output_without_its_end_is_asked_for_again(tmp_path: Path) -> None:
    """A recorded output that comes in pieces: without its end at first, whole the third time."""
    whole, tool = tmp_path / "whole.txt", tmp_path / "bin" / "llama-perplexity"
    whole.write_text(PERPLEXITY, encoding="utf-8")
    tool.parent.mkdir()
    tool.write_text(
        f'#!/bin/sh\necho >> "{tmp_path}/runs"\nn=$(wc -l < "{tmp_path}/runs")\nhead -n $((9 * n)) "{whole}"\n'
    )
    tool.chmod(0o755)
    found, _ = Tools(folder=tmp_path, threads=1).divergence(Path("m"), Path("r"), tmp_path / "log")
    assert found == parse_divergence(PERPLEXITY)
    assert len((tmp_path / "runs").read_text()) == 3
