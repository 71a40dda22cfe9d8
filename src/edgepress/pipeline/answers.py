"""``edgepress answers``: a teacher is asked, and what it says is sifted into conversations to train a student on.

    <name>.raw.jsonl     every answer, as it comes in; what is there is not asked for again
    <name>.report.json   how many were dropped for what
    <name>.jsonl         the rest, a conversation a line, as ``edgepress distill --text`` takes them

The last two are made from the first, and made again with every run: sifting in another way asks nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgepress.artifact.files import write_atomically
from edgepress.benchmarks.answers_record import AnswersRecord
from edgepress.compress.distill.answers import Answered, Chosen, Filter, choose
from edgepress.errors import EdgepressError, InputError
from edgepress.pipeline.answer_log import AnswerLog, Asked, Place, json_line, open_log
from edgepress.pipeline.prompts import Prompt, distinct, read_prompts
from edgepress.pipeline.teacher import Teacher, TeacherChoice, find_teacher
from edgepress.progress import progress, say
from edgepress.runtime.answering import Answer, Answerer, Sampling


class AnswersJob(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked, and how.

    prompts      file of prompts; ``system`` is a message for those without one
    per_prompt   answers to each, of which one is kept at the most
    seed         of the sampling; None takes 0 of a local teacher and leaves it to an endpoint
    """

    prompts: Path
    system: str | None = None
    sampling: Sampling
    per_prompt: int = 1
    seed: int | None = None
    filter: Filter = Filter()


class _Question(NamedTuple):
    prompt: Prompt
    draw: int

    @property
    def place(self) -> Place:
        return self.prompt.name, self.draw


def answers(choice: TeacherChoice, job: AnswersJob, out: Path) -> AnswersRecord:
    """Ask for what is not answered yet, and write the answers that are worth training on.

    Raises:
        InputError: an option, a prompt, the teacher or what lies at ``out`` is not what it must be.
        EdgepressError: the teacher does not answer, or no answer is worth anything; what was answered is kept.
    """
    _check(job, out)
    job = msgspec.structs.replace(job, seed=_settled_seed(choice, job))
    lines = read_prompts(job.prompts, job.system)
    prompts = distinct(lines)
    if len(prompts) < len(lines):
        say(f"{job.prompts}: {len(lines) - len(prompts)} prompts are there already, and are asked once")
    teacher = find_teacher(choice)
    questions = [_Question(prompt, draw) for prompt in prompts for draw in range(job.per_prompt)]
    with open_log(_beside(out, "raw.jsonl"), _asked(teacher, choice, job)) as log:
        if missing := [question for question in questions if question.place not in log.answers]:
            _ask(teacher, job, missing, log, len(questions))
        log.sort([question.place for question in questions])
        answered = [
            Answered(prompt.words, [log.answers[prompt.name, draw] for draw in range(job.per_prompt)])
            for prompt in prompts
        ]
        chosen = choose(answered, job.filter)
        record = _record(teacher, job, prompts, len(lines) - len(prompts), chosen)
        _write(out, prompts, answered, chosen, record)
    return record


def _check(job: AnswersJob, out: Path) -> None:
    if out.suffix != ".jsonl":
        raise InputError(f"-o {out}: wanted a name that ends in .jsonl, as 'edgepress distill --text' takes it")
    if out.is_dir() or (out.exists() and not _beside(out, "report.json").is_file()):
        raise InputError(f"{out}: exists and was not written by this command; choose another name")
    if job.per_prompt > 1 and not job.sampling.temperature:
        raise InputError(
            f"--per-prompt {job.per_prompt}: a greedy teacher says the same each time; give a --temperature"
        )
    job.filter.patterns()


def _settled_seed(choice: TeacherChoice, job: AnswersJob) -> int | None:
    """What a local teacher draws by; an endpoint may have been given none, and greedy answers have none."""
    if choice.is_endpoint:
        return job.seed
    return (job.seed or 0) if job.sampling.temperature else None


def _beside(out: Path, ending: str) -> Path:
    return out.with_name(f"{out.stem}.{ending}")


def _asked(teacher: Teacher, choice: TeacherChoice, job: AnswersJob) -> Asked:
    return Asked(
        teacher=teacher.identity,
        tokens=job.sampling.tokens,
        temperature=job.sampling.temperature,
        seed=job.seed,
        context=choice.context,
    )


def _ask(teacher: Teacher, job: AnswersJob, missing: list[_Question], log: AnswerLog, total: int) -> None:
    done = total - len(missing)
    if done:
        say(f"{done} of {total} answers are there already")
    with teacher.open() as answerer, progress("answers", total, done=done, unit="answers") as advance:
        for question in missing:
            with _naming(job, question):
                answerer.check(question.prompt.messages)
        for question, answer in _as_they_come(answerer, job, missing):
            log.add(question.place, answer)
            advance(1)


@contextmanager
def _naming(job: AnswersJob, question: _Question) -> Iterator[None]:
    """Put the line of a prompt before what is refused about it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{job.prompts}:{question.prompt.line}: {error}") from error


def _as_they_come(
    answerer: Answerer, job: AnswersJob, questions: list[_Question]
) -> Iterator[tuple[_Question, Answer]]:
    """Questions and their answers, in order where one is asked at a time; else as they come in."""

    def ask(question: _Question) -> Answer:
        with _naming(job, question):
            return answerer.answer(question.prompt.messages, job.sampling, _seed(job, question))

    if answerer.at_once == 1:
        for question in questions:
            yield question, ask(question)
        return
    with ThreadPoolExecutor(answerer.at_once) as pool:
        try:
            yield from _all_but_failures({pool.submit(ask, question): question for question in questions}, answerer)
        finally:
            answerer.give_up()
            pool.shutdown(cancel_futures=True)


def _all_but_failures(
    running: dict[Future[Answer], _Question], answerer: Answerer
) -> Iterator[tuple[_Question, Answer]]:
    """Answers as they come in; behind the first failure those that are under way, and then it is raised."""
    failure: BaseException | None = None
    for done in as_completed(running):
        if done.cancelled():
            continue
        if (error := done.exception()) is None:
            yield running[done], done.result()
        elif failure is None:
            failure = error
            answerer.give_up()
            for waiting in running:
                waiting.cancel()
    if failure is not None:
        raise failure


def _seed(job: AnswersJob, question: _Question) -> int | None:
    """A seed of its own for each answer, that depends on nothing else that is asked."""
    if job.seed is None:
        return None
    entropy = (job.seed, int(question.prompt.name, 16), question.draw)
    return int(np.random.default_rng(entropy).integers(2**31))


def _record(teacher: Teacher, job: AnswersJob, prompts: list[Prompt], repeated: int, chosen: Chosen) -> AnswersRecord:
    lines: dict[str, list[int]] = defaultdict(list)
    for prompt, _, reason in chosen.dropped:
        lines[reason].append(prompts[prompt].line)
    return AnswersRecord(
        teacher=teacher.label,
        tokens=job.sampling.tokens,
        temperature=job.sampling.temperature,
        seed=job.seed,
        per_prompt=job.per_prompt,
        prompts=len(prompts),
        prompts_repeated=repeated,
        answers=len(prompts) * job.per_prompt,
        kept=len(chosen.kept),
        dropped={reason: len(found) for reason, found in lines.items()},
        dropped_prompts={reason: tuple(found) for reason, found in lines.items()},
        filter=msgspec.to_builtins(job.filter),
    )


def _write(
    out: Path, prompts: list[Prompt], answered: Sequence[Answered], chosen: Chosen, record: AnswersRecord
) -> None:
    """The report, and behind it the file that it is about; not the file where nothing is left."""
    out.unlink(missing_ok=True)
    report = msgspec.json.format(msgspec.json.encode(record), indent=2)
    write_atomically(_beside(out, "report.json"), report + b"\n")
    if not chosen.kept:
        why = ", ".join(f"{reason} {count}" for reason, count in record.dropped.items())
        raise EdgepressError(
            f"none of {record.answers} answers is left ({why}); they are in {_beside(out, 'raw.jsonl')}; "
            "cut_off wants more --tokens or --context, the rest other bounds"
        )
    lines = []
    for place, draw in sorted(chosen.kept.items()):
        said = {"role": "assistant", "content": answered[place].answers[draw].text}
        lines.append(json_line({"messages": [*prompts[place].messages, said]}))
    write_atomically(out, b"".join(lines))
