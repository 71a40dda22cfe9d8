"""What became of the answers of a teacher: ``<name>.report.json`` beside ``<name>.jsonl``."""

from __future__ import annotations

import msgspec


class AnswersRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Answers asked for, kept and dropped.

    teacher             its name or address, and the model's
    tokens              of an answer at most
    temperature, seed   of the sampling; temperature 0 is greedy, without a seed the teacher draws as it likes
    per_prompt          answers asked for at each prompt, of which one is kept at the most
    prompts             different ones
    prompts_repeated    lines that say what an earlier one says; they are asked once
    answers             prompts × per_prompt
    kept                lines of the file
    dropped             how many of the answers for what
    dropped_prompts     for what, and the lines of the prompts whose answers they are
    filter              what was dropped, as it was set
    """

    teacher: str
    tokens: int
    temperature: float
    seed: int | None
    per_prompt: int
    prompts: int
    prompts_repeated: int
    answers: int
    kept: int
    dropped: dict[str, int]
    dropped_prompts: dict[str, tuple[int, ...]]
    filter: dict[str, object]
