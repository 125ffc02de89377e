"""The list of mutants fits the code: each text stands once in its file, and each test that is named exists."""

import py_compile
from importlib.util import cache_from_source
from pathlib import Path

from mutants import run


def test_each_text_stands_where_the_list_says() -> None:
    problems = [f"{mutant.name}: {problem}" for mutant in run.load() if (problem := mutant.problem()) is not None]
    assert not problems, "\n".join(problems)


def test_no_mutant_is_listed_twice() -> None:
    names = [(mutant.file, mutant.old, mutant.new, mutant.tests) for mutant in run.load()]
    assert len(names) == len(set(names))


def test_a_test_that_fails_without_the_mutant_is_no_proof() -> None:
    """A known good one is not played again, unless what killed the mutant may have been a slow machine."""
    mutant = run.Mutant("area", "what", "f.py", "old", "new", ("tests/a.py", "tests/b.py"))
    tree = run.Tree.__new__(run.Tree)
    tree.interpreted, tree.good = False, set()
    played: list[tuple[str, ...]] = []
    results = [run.FAILED, run.PASSED, None, run.PASSED, None, run.PASSED]

    def test(tests: tuple[str, ...], worlds: int) -> tuple[int | None, str]:
        played.append(tests)
        return results[len(played) - 1], ""

    tree.test = test  # type: ignore[method-assign]
    plain, slow = "FAILED tests/b.py::test_it[a b] - assert 1 == 2", "FAILED tests/b.py::test_it - TimeoutError"
    assert [tree.is_proof(mutant, why) for why in (plain, plain, plain, slow, slow)] == [False, True, True, False, True]
    assert played == [("tests/b.py::test_it",)] * 4
    assert not tree.is_proof(mutant, run.reason(None, "")) and tree.is_proof(mutant, run.reason(-11, ""))
    assert played[4:] == [mutant.tests] * 2


def test_what_killed_a_mutant_is_told() -> None:
    said = "...\nFAILED tests/b.py::test_it - assert 1 == 2\n1 failed in 0.1s\n"
    assert run.reason(run.FAILED, said) == "FAILED tests/b.py::test_it - assert 1 == 2"
    assert run.reason(-11, said) == "CRASH: SIGSEGV"


def test_a_killed_mutant_of_worlds_is_compared_up_to_the_world_that_failed() -> None:
    """All of them may take longer than a test may."""
    mutant = run.Mutant("area", "what", "f.py", "old", "new", ("tests/a.py",), worlds=2000)
    tree = run.Tree.__new__(run.Tree)
    tree.interpreted, tree.good = False, set()
    played: list[int] = []

    def test(tests: tuple[str, ...], worlds: int) -> tuple[int | None, str]:
        played.append(worlds)
        return run.PASSED, ""

    tree.test = test  # type: ignore[method-assign]
    said = "FAILED tests/a.py::test_it - AssertionError: world {} fails: 5: is not what"
    whys = [*(said.format(world) for world in (17, 17, 3)), "CRASH: SIGSEGV"]
    assert all(tree.is_proof(mutant, why) for why in whys)
    assert played == [18, 4, 2000]


def test_a_mutant_of_the_same_size_is_not_hidden_by_the_compiled_original(tmp_path: Path) -> None:
    module = tmp_path / "one.py"
    compiled = Path(cache_from_source(str(module)))
    for value in ("1", "2", "1"):
        run.write(module, f"VALUE = {value}".encode())
        assert not compiled.exists()
        py_compile.compile(str(module), doraise=True)
        assert compiled.exists()
