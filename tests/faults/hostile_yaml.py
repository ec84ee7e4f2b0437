"""Run files that would cost much time or memory, or that cannot be meant."""


def nest(sign: str, levels: int) -> str:
    """Aliases of aliases: each level holds the one before it nine times."""
    first = "a0: &a0 {k: 1}\n"
    open_, close = ("{<<: [", "]}") if sign == "<<" else ("[", "]")
    lines = [f"a{i}: &a{i} {open_}{', '.join([f'*a{i - 1}'] * 9)}{close}\n" for i in range(1, levels)]
    return first + "".join(lines)


def fill(unit: str, before: str = "", after: str = "", size: int = 99_000) -> str:
    """A text of about `size` characters that repeats `unit`."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


TEXTS: dict[str, tuple[str | bytes, str]] = {
    # size
    "list of 249,000 items": ("a: [" + "1," * 249_000 + "1]", "at most 100,000 bytes"),
    "48,000 keys": ("".join(f"k{i}: 1\n" for i in range(48_000)), "at most 100,000 bytes"),
    "comment of 10 MB": ("#" * 10_000_000, "at most 100,000 bytes"),
    "list of 49,000 items": (fill("1,", "a: [", "]"), "at most 10,000 values"),
    "list of 33,000 texts": (fill("'',", "a: [", "]"), "at most 10,000 values"),
    "9,500 keys": ("".join(f"k{i}: 1\n" for i in range(9_500)), "at most 10,000 values"),
    "empty keys": (fill("?\n"), "at most 10,000 values"),
    "pairs in a list": (fill("?,", "[", "]"), "at most 10,000 values"),
    "dashes": (fill("-\n"), "at most 10,000 values"),
    "8,000 anchors": ("".join(f"- &a{i} 1\n" for i in range(8_000)), "at most 20,000 tokens"),
    # aliases and merges
    "billion laughs": (nest("[", 12), "at most 10,000 values"),
    "merge bomb": (nest("<<", 12), "at most 10,000 values"),
    "long text by alias": ("a: &a '" + "x" * 50_000 + "'\nb: [" + "*a," * 2_000 + "]", "1,000,000 characters"),
    "chain of aliases": ("".join(f"a{i}: &a{i} [*a{i - 1}]\n" if i else "a0: &a0 1\n" for i in range(60)), "30 deep"),
    "alias in itself": ("a: &a [1, {b: *a}]", "inside the value of its own anchor"),
    "merge of itself": ("a: &a {b: 1, <<: *a}", "inside the value of its own anchor"),
    "alias of nothing": ("a: *b", "has no anchor before it"),
    "anchor twice": ("a: &a 1\nb: &a 2", "is defined twice"),
    "merge of a number": ("a: {<<: 3}", "<< must be a mapping, or a list of mappings, got 3"),
    "merge of lists": ("a: {<<: [[{b: 1}]]}", "<< must be a mapping, or a list of mappings, got [{'b': 1}]"),
    "two merges": ("a: &a {b: 1}\nc: {<<: *a, <<: *a}", "'<<' appears twice"),
    "merge key as a value": ("a: <<", "<< must be the key of a merge"),
    # nesting
    "open brackets": (fill("["), "30 deep"),
    "open braces": (fill("{"), "30 deep"),
    "brackets as keys": (fill("[[[[a]]]]: 1, ", "{" * 29), "30 deep"),
    "dashes in a line": (fill("- "), "30 deep"),
    "question marks in a line": (fill("? "), "30 deep"),
    "pyramid of indents": ("".join(" " * i + "a:\n" for i in range(400)), "30 deep"),
    "brackets 29 deep, again and again": (fill("[" * 28 + "]" * 28 + ",", "[", "]"), "at most 20,000 tokens"),
    # scalars
    "number of 20,000 digits": ("seed: " + "9" * 20_000, "at most 400 characters"),
    "fraction of 1,600 digits": ("seed: " + "9" * 800 + "/" + "9" * 800, "at most 400 characters"),
    "exponent of 20,000 digits": ("seed: 1e" + "9" * 20_000, "at most 400 characters"),
    "key of 20,000 digits": ("? " + "9" * 20_000 + "\n: 1", "at most 400 characters"),
    "open quote": (fill("x\n", "a: '"), "unexpected end of stream"),
    "open quote of blank lines": (fill("\n", 'a: "'), "unexpected end of stream"),
    "escape of no character": ('a: "\\UFFFFFFFF"', "cannot be read"),
    "escape of half a pair": ('a: "\\udc80"', "unpaired surrogates"),
    "escape of NUL": ('a: "\\0"', "NUL"),
    # documents and directives
    "many documents": (fill("---\n"), "another document"),
    "many ends of a document": ("--- {a: 1}\n" + fill("...\n"), "at most 20,000 tokens"),
    "many directives": (fill("%a\n"), "at most 20,000 tokens"),
    "version of 5,000 digits": ("%YAML 1." + "1" * 5_000 + "\n---\na: 1", "cannot be read"),
    "tags by a directive": ("%TAG ! tag:x,2000:\n---\na: !b c", "the tag"),
    "tag of a list": ("a: !!set {b}", "the tag '!!set'"),
    "tag of text": ("a: !!str 3", "the tag '!!str' of '3'"),
    "tag without a name": ("a: ! 3", "the tag '!' of '3'"),
    # keys
    "4,000 keys, one of them twice": ("".join(f"k{i}: 1\n" for i in range(4_000)) + "k7: 2", "'k7' appears twice"),
    "one key 4,000 times": ("k: 1\n" * 4_000, "'k' appears twice"),
    "a number and its text": ("1: 1\n'1': 2", "'1' appears twice"),
    "one number in two forms": ("1: 1\n1.0: 2", "1.0 appears twice"),
    "a list as a key": ("? [1]\n: 2", "must be text"),
    "a list as a key by alias": ("a: &a [1]\n*a : 2", "must be text"),
    # characters
    "tab as an indent": ("a:\n\tb: 1", "a tab cannot indent"),
    "NUL": (b"a: 1\nb: \0", "line 2, column 4: the character #x0000"),
    "escape sequence of a terminal": (b"a: \x1b[31m", "the character #x001b"),
    "not UTF-8": (b"a: \xe9\n", "utf-8"),
    "half of a pair in UTF-8": (b"a: \xed\xa0\x80", "utf-8"),
    "UTF-16": ("a: 1".encode("utf-16"), "utf-8"),
    "UTF-16 without a mark": ("a: 1".encode("utf-16-le"), "the character #x0000"),
    "UTF-32": ("a: 1".encode("utf-32"), "utf-8"),
    "program": (b"\x7fELF\x02\x01\x01\0" * 8, "the character #x007f"),
}
"""Content, and words of the line that refuses it."""

HUGE_TEXTS = {
    "plain": fill("x", "a: "),
    "plain, many words": fill("x ", "a: "),
    "plain, many lines": fill("x\n ", "a: "),
    "quoted, many lines": fill("x\n", "a: '", "'"),
    "escapes": fill("\\x41", 'a: "', '"'),
    "block": fill(" x\n", "a: |\n"),
    "comments": fill("#\n", "a: 1\n"),
    "blank lines": fill("\n", "a: 1\n"),
    "digits and a letter": "a: " + "9" * 20_000 + "x",
    "a fraction and a letter": "a: " + "9" * 800 + "/" + "9" * 800 + "x",
    "digits, points and a letter": fill("9.", "a: ", "x"),
}
"""Mappings of one key that are read, as long as a file may be."""
