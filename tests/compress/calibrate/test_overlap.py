import pytest

from edgepress.compress.calibrate.overlap import refuse_overlap, shared_ngrams
from edgepress.errors import InputError

WORDS = [f"word{i}" for i in range(40)]
SIGNS = "".join(chr(0x4E00 + 37 * i) for i in range(80))
THAI = "".join(chr(0x0E01 + i % 46) for i in range(46))


def test_thirteen_words_in_common_are_an_overlap_and_twelve_are_not() -> None:
    text = " ".join(WORDS)
    assert shared_ngrams(text, "before " + " ".join(WORDS[5:18]) + " after") == [" ".join(WORDS[5:18])]
    assert shared_ngrams(text, "before " + " ".join(WORDS[5:17]) + " after") == []


def test_case_punctuation_and_unknown_marks_do_not_hide_an_overlap() -> None:
    assert shared_ngrams(" ".join(WORDS[:13]), ", ".join(WORDS[:6]).upper() + " <unk> – " + "; ".join(WORDS[6:13]))


@pytest.mark.parametrize("text", [SIGNS, THAI])
def test_in_scripts_without_spaces_twenty_six_signs_in_common_are_an_overlap(text: str) -> None:
    assert len(shared_ngrams(text, "x" + text[3:29] + "y")) == 1
    assert shared_ngrams(text, "x" + text[3:28] + "y") == []
    assert shared_ngrams(text, text[3:12] + "。 " + text[12:29])


def test_words_between_signs_still_count() -> None:
    mixed = SIGNS[:3] + " ".join(WORDS[:13]) + SIGNS[3:6]
    assert shared_ngrams(" ".join(WORDS[:13]), mixed) == [" ".join(WORDS[:13])]


def test_the_refusal_counts_the_runs_and_shows_one() -> None:
    with pytest.raises(InputError, match=r"share 2 runs of 13 words, such as 'word0 .*word12'; .* or ask"):
        refuse_overlap([" ".join(WORDS)], [" ".join(WORDS[:14])], "ask")
