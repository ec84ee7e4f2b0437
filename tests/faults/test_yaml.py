"""What a YAML text means does not depend on PyYAML, and hostile texts are refused before they cost much."""

import itertools
import subprocess
import sys
import tracemalloc

import pytest
import yaml
from hostile_yaml import HUGE_TEXTS, TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from yaml.composer import Composer
from yaml.constructor import BaseConstructor, SafeConstructor
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from advcore.config import yaml_events, yaml_reader
from advcore.config.load import load
from advcore.config.yaml_reader import parse
from advcore.errors import ConfigError
from advcore.suite.layout import MOST_METHODS, MOST_RUNS

# ---- merges ----

MERGES = """
base: &base {steps: 3, eps: 0.1, start: zero}
fast: &fast {steps: 1, restarts: 2}
slow: &slow {<<: *fast, steps: 50}
deep: &deep {attack: {steps: 10}, seed: 4}
other: &other {attack: {steps: 3, eps: 0.2}, seed: 5, name: x}
explicit before: {steps: 10, <<: *base}
explicit after: {<<: *base, steps: 10}
fast before base: {<<: [*fast, *base]}
base before fast: {<<: [*base, *fast]}
nested: {<<: [*slow, *base], eps: 0.5}
nested in line: {<<: {<<: {steps: 7, eps: 0.7}, steps: 8}}
whole values: {<<: [*deep, *other]}
inside:
  <<: *other
  attack: {<<: *base, steps: 10}
"""
VALUES = {
    "base": {"steps": 3, "eps": 0.1, "start": "zero"},
    "fast": {"steps": 1, "restarts": 2},
    "slow": {"steps": 50, "restarts": 2},
    "deep": {"attack": {"steps": 10}, "seed": 4},
    "other": {"attack": {"steps": 3, "eps": 0.2}, "seed": 5, "name": "x"},
    "explicit before": {"steps": 10, "eps": 0.1, "start": "zero"},
    "explicit after": {"steps": 10, "eps": 0.1, "start": "zero"},
    "fast before base": {"steps": 1, "restarts": 2, "eps": 0.1, "start": "zero"},
    "base before fast": {"steps": 3, "eps": 0.1, "start": "zero", "restarts": 2},
    "nested": {"steps": 50, "restarts": 2, "eps": 0.5, "start": "zero"},
    "nested in line": {"steps": 8, "eps": 0.7},
    "whole values": {"attack": {"steps": 10}, "seed": 4, "name": "x"},
    "inside": {"attack": {"steps": 10, "eps": 0.1, "start": "zero"}, "seed": 5, "name": "x"},
}


def flatten(node: yaml.MappingNode, *, later_wins=False, merged_wins=False, is_nested=True) -> list[tuple]:
    """The pairs of a mapping, of which a later one wins, with its merges resolved; wrongly, as the arguments say."""
    explicit, sources = [], []
    for key, value in node.value:
        if key.tag != "tag:yaml.org,2002:merge":
            explicit.append((key, value))
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            pairs = flatten(source, later_wins=later_wins, merged_wins=merged_wins)
            own = [pair for pair in source.value if pair[0].tag != key.tag]
            sources.append(pairs if is_nested else own)
    merged = sum(sources if later_wins else reversed(sources), [])
    return explicit + merged if merged_wins else merged + explicit


WRONG_MERGES = {
    "later sources win": {"later_wins": True},
    "merged values win over explicit": {"merged_wins": True},
    "merges inside a source are lost": {"is_nested": False},
}


@pytest.mark.case("G3")
@pytest.mark.parametrize("wrong", WRONG_MERGES.values(), ids=WRONG_MERGES)
def test_values_are_right_where_the_installed_pyyaml_merges_wrongly(monkeypatch, root, tmp_path, wrong):
    def flatten_mapping(self, node):
        node.value = flatten(node, **wrong)

    monkeypatch.setattr(SafeConstructor, "flatten_mapping", flatten_mapping)
    assert yaml.safe_load(MERGES) != VALUES, "the stand-in is wrong"
    assert parse(MERGES, "f") == VALUES
    run = (root / "experiments/linf_full.yaml").read_text()
    (tmp_path / "f.yaml").write_text(run.replace("attack: {", "attack: {<<: {steps: 3, restarts: 2}, "))
    merge = "{<<: [{steps: 4, name: linf_pgd}, {steps: 5, eps: 0.2}]}"
    config = load(tmp_path / "f.yaml", [f"evaluation.attacks.0={merge}"])
    assert (config.attack.steps, config.attack.restarts) == (10, 2)
    assert (config.evaluation.attacks[0].steps, config.evaluation.attacks[0].eps) == (4, 0.2)


@pytest.mark.case("G3")
def test_the_stand_in_is_right_where_it_is_not_told_to_be_wrong(monkeypatch):
    monkeypatch.setattr(SafeConstructor, "flatten_mapping", lambda self, node: setattr(node, "value", flatten(node)))
    found = yaml.safe_load(MERGES)
    assert found == VALUES


@pytest.mark.case("G3")
def test_neither_composer_nor_constructor_nor_resolver_is_used(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("used")

    for cls, names in (
        (Composer, ("compose_node", "compose_mapping_node", "get_single_node")),
        (BaseConstructor, ("construct_object", "construct_mapping", "get_single_data")),
        (SafeConstructor, ("construct_mapping", "flatten_mapping", "construct_yaml_int")),
        (BaseResolver, ("resolve", "descend_resolver")),
    ):
        for name in names:
            monkeypatch.setattr(cls, name, refuse)
    with pytest.raises(AssertionError):
        yaml.safe_load("a: 1")
    assert parse(MERGES, "f") == VALUES


@pytest.mark.case("G3")
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'<<': 1, <<: {a: 2}}", {"a": 2, "<<": 1}),
        ('{"<<": {a: 2}}', {"<<": {"a": 2}}),
        ("{<<: []}", {}),
        ("{<<: {}, a: 1}", {"a": 1}),
        ("[&a {b: 1}, &l [*a, {c: 2}], {<<: *l}]", [{"b": 1}, [{"b": 1}, {"c": 2}], {"b": 1, "c": 2}]),
        ("[&a x, {*a : 1}]", ["x", {"x": 1}]),
        ("{a: {<<: {b: 1}, b: null}}", {"a": {"b": None}}),
    ],
)
def test_what_a_merge_is_and_what_is_none(text, value):
    assert parse(text, "f") == value


def test_merged_keys_come_first_in_the_order_of_their_sources():
    found = parse("{e: 1, <<: [{c: 2, a: 3}, {a: 4, b: 5}], a: 6, d: 7}", "f")
    assert list(found.items()) == [("c", 2), ("a", 6), ("b", 5), ("e", 1), ("d", 7)]


KEYS = ("steps", "eps", "start", "restarts", "step_size")
mappings = st.lists(
    st.tuples(
        st.lists(st.sampled_from(KEYS), unique=True),  # explicit keys
        st.lists(st.integers(0, 20), max_size=4),  # sources among the mappings before, by number
        st.integers(0, len(KEYS)),  # how many keys stand before the merge
        st.booleans(),  # whether a source stands in a list
    ),
    min_size=1,
    max_size=8,
)


def write(mappings: list) -> str:
    """The mappings as YAML: m0, m1, ... The value of a key says where it was written."""
    lines = []
    for i, (keys, sources, before, in_list) in enumerate(mappings):
        entries = [f"{key}: {key} of m{i}" for key in keys]
        aliases = [f"*m{source % i}" for source in sources] if i else []
        if aliases:
            alone = len(aliases) == 1 and not in_list
            entries.insert(before, f"<<: {aliases[0] if alone else '[' + ', '.join(aliases) + ']'}")
        lines.append(f"m{i}: &m{i} {{{', '.join(entries)}}}\n")
    return "".join(lines)


def look_up(mappings: list, i: int, key: str) -> str | None:
    """What a key of mapping `i` holds: its explicit value, else that of the first source that has the key."""
    keys, sources, _, _ = mappings[i]
    if key in keys:
        return f"{key} of m{i}"
    values = [look_up(mappings, source % i, key) for source in sources] if i else []
    return next((value for value in values if value is not None), None)


@pytest.mark.case("G3")
@settings(max_examples=100, deadline=None)
@given(mappings)
def test_merges_are_what_looking_up_each_key_gives(mappings):
    expected = {}
    for i in range(len(mappings)):
        values = {key: look_up(mappings, i, key) for key in KEYS}
        expected[f"m{i}"] = {key: value for key, value in values.items() if value is not None}
    assert parse(write(mappings), "f") == expected


@pytest.mark.case("G3")
def test_plain_text_is_a_number_where_both_sides_of_its_slash_are():
    """Every text of up to six of these signs; the denominator has neither sign nor exponent."""

    def is_number(text: str) -> bool:
        numerator, slash, denominator = text.partition("/")
        try:
            float(numerator)
            return not slash or set(denominator) <= set("0.") and float(denominator) is not None
        except ValueError:
            return False

    texts = ["".join(signs) for length in range(1, 7) for signs in itertools.product("0.e-/", repeat=length)]
    numbers = [text for text in texts if is_number(text)]
    assert [text for text in texts if yaml_reader._NUMBER.fullmatch(text)] == numbers and len(numbers) > 100


# ---- hostile texts ----

each_text = pytest.mark.parametrize("content, words", TEXTS.values(), ids=TEXTS)


class Work:
    """Counts what reading texts takes."""

    def __init__(self):
        self.tokens = 0
        self.events = 0
        self.values = 0
        self.numbers = [0]  # lengths of what the pattern of a number is tried on
        self.scanners: list[Reader] = []

    def assert_bounded(self) -> None:
        """Whatever the text: the scanner's and the parser's steps, how far they came, and what was built of it."""
        assert self.tokens <= 20_000 and self.events <= 25_000
        assert sum(scanner.index for scanner in self.scanners) <= 100_000
        assert self.values <= 10_000 and max(self.numbers) <= 400


@pytest.fixture
def work(monkeypatch) -> Work:
    work = Work()
    pattern = yaml_reader._NUMBER

    class Pattern:
        def fullmatch(self, text: str):
            work.numbers.append(len(text))
            return pattern.fullmatch(text)

    def count(cls: type, name: str, counter: str) -> None:
        original = getattr(cls, name)

        def counted(self, *arguments):
            setattr(work, counter, getattr(work, counter) + 1)
            return original(self, *arguments)

        monkeypatch.setattr(cls, name, counted)

    def keep(self, text, original=Reader.__init__):
        work.scanners.append(self)
        original(self, text)

    count(Scanner, "fetch_more_tokens", "tokens")
    count(Parser, "get_event", "events")
    count(yaml_reader._Builder, "_build_node", "values")
    monkeypatch.setattr(Reader, "__init__", keep)
    monkeypatch.setattr(yaml_reader, "_NUMBER", Pattern())
    return work


@pytest.mark.case("G3")
@each_text
def test_a_hostile_file_is_refused_in_a_line_before_it_costs_much(tmp_path, work, content, words):
    (tmp_path / "f.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "f.yaml")
    (line,) = caught.value.lines
    assert line.startswith(str(tmp_path / "f.yaml")) and line.isprintable() and len(line) < 1_000
    assert words in line
    work.assert_bounded()


@pytest.mark.case("G3")
@pytest.mark.parametrize("text", HUGE_TEXTS.values(), ids=HUGE_TEXTS)
def test_a_text_as_long_as_a_file_may_be_is_read_at_bounded_cost(work, text):
    assert isinstance(parse(text, "f")["a"], (str, int))
    work.assert_bounded()


def test_a_file_is_parsed_once_and_anew_where_it_changed(tmp_path, work):
    """A command reads its file twice; what the first reader does with the values is nothing to the second."""
    path = tmp_path / "f.yaml"
    path.write_text("a: [1]")
    yaml_reader.read(path)["a"].append(2)
    tokens = work.tokens
    assert yaml_reader.read(path) == {"a": [1]} and work.tokens == tokens > 0
    path.write_text("a: [3]")
    assert yaml_reader.read(path) == {"a": [3]} and work.tokens > tokens


LIMITS = ("LARGEST_TEXT", "MOST_TOKENS", "MOST_VALUES", "MOST_CHARACTERS", "DEEPEST")


def test_the_limits_leave_room_for_files_several_times_the_largest_of_the_repository(root, monkeypatch):
    for name in LIMITS:
        monkeypatch.setattr(yaml_events, name, getattr(yaml_events, name) // (3 if name == "DEEPEST" else 5))
    files = [*root.glob("experiments/**/*.yaml"), *root.glob("benchmarks/suites/**/*.yaml")]
    assert len(files) > 100
    for file in files:
        assert parse(file.read_text(), str(file))


def test_the_page_names_the_limits(root):
    page = " ".join((root / "docs/reliability.md").read_text().split())
    bytes_, tokens, values, characters, levels = (getattr(yaml_events, name) for name in LIMITS)
    assert characters == 1_000_000 and f"{bytes_:,} bytes, {tokens:,} tokens" in page
    assert (
        f"With its aliases replaced by copies, it may have at most {values:,} values and a million characters" in page
    )
    assert f"{levels} levels" in page
    assert f"{yaml_reader.LONGEST_NUMBER} characters per number" in page
    assert f"at most {MOST_METHODS:,} methods and {MOST_RUNS:,} runs" in page


def assert_little_memory(path, content: str | bytes) -> None:
    """Read a hostile file in less than 30 MB; 10 MB were measured at most."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    tracemalloc.start()
    try:
        with pytest.raises(ConfigError):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.case("G3")
@pytest.mark.parametrize("name", ["dashes", "billion laughs", "merge bomb", "long text by alias", "open brackets"])
def test_a_hostile_file_takes_little_memory(tmp_path, name):
    assert_little_memory(tmp_path / "f.yaml", TEXTS[name][0])


@pytest.mark.slow
@pytest.mark.case("G3")
@each_text
def test_every_hostile_file_takes_little_memory(tmp_path, content, words):
    assert_little_memory(tmp_path / "f.yaml", content)


QUICK = ("billion laughs", "open brackets", "number of 20,000 digits", "two merges", "NUL", "list of 249,000 items")


@pytest.mark.case("G3")
@pytest.mark.parametrize("name", QUICK)
def test_every_door_that_reads_yaml_has_the_same_guard(advcore, root, tmp_path, name):
    content, words = TEXTS[name]
    content = content.decode() if isinstance(content, bytes) else content
    hostile, suite, good = tmp_path / "hostile.yaml", tmp_path / "suite.yaml", root / "experiments/linf_full.yaml"
    hostile.write_text(content)
    suite.write_text("name: x\nexperiment: hostile.yaml\nmethods: {full: {}, other: {}}\n")
    override = content if len(content) < 100_000 else "1" * 100_000
    commands = [(command, hostile) for command in ("run", "check", "score", "evaluate", "bench")]
    commands += [("select", hostile, "--checkpoint", "none"), ("bench", suite)]
    commands += [(command, good, "--set", f"a.b={override}") for command in ("check", "evaluate", "bench")]
    for command in commands:
        code, _, err = advcore(*command)
        assert code == 2 and err.count("\n") == 1 and len(err) < 1_500, (command[0], err)
        assert words in err or override != content, (command[0], err)


@pytest.mark.case("G3")
@pytest.mark.parametrize("arguments", [["check", "FILE"], ["bench", "FILE"], ["run", "GOOD", "--set", "a=[[1"]])
def test_what_cannot_be_read_is_refused_before_torch_is_imported(root, tmp_path, arguments):
    (tmp_path / "f.yaml").write_text("a: [1")
    files = {"FILE": str(tmp_path / "f.yaml"), "GOOD": str(root / "experiments/linf_full.yaml")}
    arguments = ["advcore", *(files.get(argument, argument) for argument in arguments)]
    code = f"""
import atexit, sys
atexit.register(lambda: print("torch" in sys.modules))
sys.argv = {arguments!r}
from advcore.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == "False\n"
    assert done.stderr.startswith("advcore: ") and done.stderr.count("\n") == 1 and "line 1, column" in done.stderr


@pytest.mark.slow
@pytest.mark.case("G3")
@each_text
def test_the_command_line_refuses_each_of_them(tmp_path, content, words):
    (tmp_path / "f.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    command = [sys.executable, "-m", "advcore", "check", str(tmp_path / "f.yaml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("advcore: ") and done.stderr.count("\n") == 1 and words in done.stderr
