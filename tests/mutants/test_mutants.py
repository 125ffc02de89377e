"""The list of mutants fits the code: each text stands once in its file, and each test that is named exists."""

from mutants import run


def test_each_text_stands_where_the_list_says() -> None:
    problems = [f"{mutant.name}: {problem}" for mutant in run.load() if (problem := mutant.problem()) is not None]
    assert not problems, "\n".join(problems)


def test_no_mutant_is_listed_twice() -> None:
    names = [(mutant.file, mutant.old, mutant.new, mutant.tests) for mutant in run.load()]
    assert len(names) == len(set(names))
