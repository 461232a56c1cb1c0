#!/usr/bin/env python3
"""check-style.py [--self-test]: holds the project to its language rules (CONTRIBUTING.md).

Run by `make lint`. Reads the files that git knows or would add; changes nothing. Prints one line
per finding, `file:line: what is wrong; what to write instead`, and exits with 1 if there is one.
--self-test shows that every rule finds what it is for, and leaves correct text alone.
"""

import os
import re
import statistics
import subprocess
import sys

WIDTH = 100  # columns, as in rustfmt.toml
TEST_NAME = 60  # characters of a test's name
TEST_NAME_MEDIAN = 36
SENTENCE = 30  # words
SUBJECT = 72  # characters of a commit's first line
ONE_WORD = 0.30  # share of public types whose name is one word
REPEATED = 0.15  # share of public types whose name another one has, too
FIRST_COMMIT = "b33c7c6"  # the rule for subjects begins after it

# Not written by hand, or a copy of something else's text.
SKIPPED = re.compile(r"^(tests/released/|target/|fuzz/corpus/|crates/onnx/proto/|LICENSE$)")

# Words and phrases, a pattern and its plain replacement per line. They are looked for in comments,
# documents, strings, test names and file names, in any case. A space matches a line break, too.
WORDS = [
    (r"nobody", '"no role", "no session", "no client"'),
    (r"somebody", '"a session", "a role", "another transaction"'),
    (r"everybody", '"every role", "all sessions", "PUBLIC"'),
    (r"anybody", '"any role", "any session"'),
    (r"whoever|whomever", 'the role: "the caller", "the client"'),
    (r"strangers?", '"untrusted", "external"'),
    (r"people", '"users"'),
    (r"ours", '"machine-written", "of the extension"'),
    (r"told|tell(?:s|ing)?", '"notified", "reported", "reports", "shows"'),
    (r"(?:is|are) none", "a negated verb"),
    (r"anew", '"again", "from the start"'),
    (r"mend(?:s|ed|ing)?", '"fix"'),
    (r"in vain", '"without success"'),
    (r"pass(?:ed|es|ing)? over", '"skipped"'),
    (r"no (?:\w+ ){0,4}any ?more", '"no longer"'),
    (r"not (?:\w+ ){0,4}any ?more", '"no longer"'),
    (r"lies?", '"is", "is in"'),
    (r"beside", '"next to"; "besides" is "also"'),
    (r"at once", '"immediately", or "at the same time"'),
    (r"by the way", "nothing: leave it out"),
    (r"of no use", '"unusable", "unused"'),
    (r"things?", "the noun that is meant"),
    (r"it is (?:said|told)", '"is reported", or who reports it'),
]
# Where a listed word is the right one: file, pattern.
ALLOWED = [
    ("models/README.md", r"people"),  # what a picture shows
    ("crates/style/src/style.rs", r"people"),  # likewise, in the instruction of a style
    ("crates/style/data/en.toml", r"beside|things?|tell"),  # words of models
    ("crates/style/tests/default_model.rs", r"things?"),  # a noun of the model
    ("crates/language/data/instructions.toml", r"people"),  # what a picture shows
    ("crates/rules/data/neutral.toml", r"people"),  # likewise
    ("crates/rules/src/neutral.rs", r"[Pp]eople"),  # likewise
    ("scripts/check-style.py", r".*"),
]

# Documents whose sentences are counted.
PROSE = re.compile(r"^([A-Z]+\.md|docs/\w+\.md)$")

RUST = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?\*/)
      | \bb?r(?P<hashes>\#*)"(?P<raw>.*?)"(?P=hashes)
      | '(?:\\.[^']*|[^\\'])'
      | (?P<string>"(?:[^"\\]|\\.)*")""",
    re.S | re.X,
)
SQL = re.compile(r"(?P<comment>--[^\n]*)|(?P<string>'(?:[^']|'')*')", re.S)
TEST = re.compile(
    r"#\[(?:test|pg_test|tokio::test)\][^\n]*\n(?:\s*(?:#\[|//)[^\n]*\n)*"
    r"\s*(?:pub )?(?:async )?fn (?P<name>\w+)"
)
TYPE = re.compile(r"^\s*pub (?:struct|enum|trait) (?P<name>[A-Z]\w*)", re.M)
PATH = re.compile(
    r"(?<![\w/.~$}-])((?:src|sql|crates|docs|scripts|tests|benches|models|fuzz|demo)/[\w./-]*\w"
    r"\.(?:rs|md|sql|sh|py|toml)|[A-Z]{4,}\.md)(?![\w*/])"
)


def line_of(text, at):
    return text.count("\n", 0, at) + 1


def prose(path, text):
    """The text with all that is code blanked, so that places stay where they are."""
    pattern = {".rs": RUST, ".sql": SQL}.get(os.path.splitext(path)[1])
    if pattern is None:
        return text
    blank = list(re.sub(r"[^\n]", " ", text))
    for match in pattern.finditer(text):
        for group in ("comment", "string", "raw"):
            if group in match.groupdict() and match[group]:
                blank[match.start(group) : match.end(group)] = match[group]
    return "".join(blank)


def width(path, text):
    """Lines over 100 columns; tables, code and addresses in documents and scripts may be longer."""
    kind = os.path.splitext(path)[1]
    if kind not in (".rs", ".sql", ".md", ".sh") and path not in ("Makefile", ".ci/run"):
        return
    fenced = False
    for number, line in enumerate(text.split("\n"), 1):
        if kind == ".md" and line.lstrip().startswith("```"):
            fenced = not fenced
        if len(line) <= WIDTH:
            continue
        code = fenced or line.startswith(("|", "    "))
        if kind == ".md" and code or kind not in (".rs", ".sql") and "://" in line:
            continue
        yield number, f"{len(line)} columns; break the line at {WIDTH}"


def test_names(path, text):
    if not path.endswith(".rs"):
        return
    for match in TEST.finditer(text):
        name = match["name"]
        if len(name) > TEST_NAME:
            yield (
                line_of(text, match.start("name")),
                f"test name of {len(name)} characters; at most {TEST_NAME}: {name}",
            )


def phrase(pattern):
    """A space of the pattern is any white space with at most one line break and comment sign."""
    gap = r"(?:[ \t]+|[ \t]*\\?\n[ \t]*(?:(?://[/!]?|--|\#)[ \t]*)?)"
    return re.compile(r"(?<!\w)(?:" + pattern.replace(" ", gap) + r")(?!\w)", re.I)


PHRASES = [(phrase(pattern), instead) for pattern, instead in WORDS]


def words(path, text):
    allowed = [re.compile(pattern, re.I) for file, pattern in ALLOWED if file == path]
    kind = os.path.splitext(path)[1]
    places = []
    if kind in (".rs", ".sql", ".md", ".sh", ".toml") or path in ("Makefile", ".ci/run"):
        places.append((prose(path, text), 0))
    if kind == ".rs":
        for match in TEST.finditer(text):
            places.append((match["name"].replace("_", " "), match.start("name")))
    places.append((re.sub(r"[_./-]", " ", path), None))
    for place, start in places:
        for pattern, instead in PHRASES:
            for match in pattern.finditer(place):
                if any(word.fullmatch(match[0]) for word in allowed):
                    continue
                found = " ".join(match[0].split())
                line = 1 if start is None else line_of(text, start + match.start())
                yield line, f'"{found}"; write {instead}'


def sentences(path, text):
    if not PROSE.match(path):
        return
    # What ends a sentence besides its full stop: blank lines, headings, items, cells, code.
    text = re.sub(r"(?ms)^```.*?^```", lambda code: re.sub(r"[^\n]", "", code[0]), text)
    text = re.sub(r"(?m)^(?: {4}.*)?$", "\0", text)
    text = re.sub(r"`[^`]*`", lambda code: re.sub(r"[^\n]", "x", code[0]), text)
    text = re.sub(r"(?m)^\s*(?:[*+-]|\d+\.|#+)\s", lambda mark: "\0" * len(mark[0]), text)
    text = re.sub(r"(?m)^\||\|", "\0", text)
    at = 0
    for part in re.split(r"([.!?][*)\"]*(?=\s)|\0+)", text):
        count = len(re.findall(r"[\w'’-]*\w[\w'’-]*", part))
        if count > SENTENCE:
            start = at + len(part) - len(part.lstrip())
            yield line_of(text, start), f"a sentence of {count} words; at most {SENTENCE}"
        at += len(part)


def references(path, text):
    """Files that a comment or a document names, and that do not exist."""
    if os.path.splitext(path)[1] not in (".rs", ".md", ".sql", ".sh") or "CHANGELOG" in path:
        return
    crate = re.match(r"crates/\w+/|tests/|fuzz/", path)
    places = ["", crate[0] if crate else "", os.path.dirname(path)]
    text = prose(path, text)
    if path.endswith(".rs"):  # names in strings are data of tests
        text = re.sub(r"(?m)^(?:(?!//).)*", lambda code: " " * len(code[0]), text)
    for match in PATH.finditer(text):
        if not any(os.path.exists(os.path.join(place, match[1])) for place in places):
            yield line_of(text, match.start()), f"{match[1]} does not exist; name what does"


def type_names(files):
    types = []
    for path, text in files:
        if path.endswith(".rs") and "tests" not in path.split("/"):
            for match in TYPE.finditer(text):
                types.append((match["name"], path, line_of(text, match.start("name"))))
    if not types:
        return
    seen, single, again = {}, [], []
    for name, path, line in types:
        if len(re.findall(r"[A-Z][a-z0-9]*", name)) == 1:
            single.append((name, path, line))
        if name in seen:
            again.append((name, path, line))
        seen.setdefault(name, path)
    if len(single) > ONE_WORD * len(types):
        share = f"{len(single) / len(types):.0%} of public types, at most {ONE_WORD:.0%}"
        for name, path, line in single:
            yield path, line, f'"{name}" is one word ({share}); add the noun that is meant'
    if len(again) > REPEATED * len(types):
        share = f"{len(again) / len(types):.0%} of public types, at most {REPEATED:.0%}"
        for name, path, line in again:
            yield path, line, f'"{name}" is also in {seen[name]} ({share}); use another name'


def median(files):
    names = [m["name"] for path, text in files if path.endswith(".rs") for m in TEST.finditer(text)]
    found = statistics.median(map(len, names)) if names else 0
    if found > TEST_NAME_MEDIAN:
        message = f"test names have a median of {found:.0f} characters; at most {TEST_NAME_MEDIAN}"
        yield "tests", 0, message


def subjects(lines):
    for line in lines:
        commit, _, subject = line.partition(" ")
        if len(subject) > SUBJECT:
            message = f"a subject of {len(subject)} characters; at most {SUBJECT}"
            yield f"commit {commit}", 0, message


EACH = (width, test_names, words, sentences, references)
WHOLE = (type_names, median)


def findings(files):
    for path, text in files:
        for rule in EACH:
            for line, message in rule(path, text):
                yield path, line, message
    for rule in WHOLE:
        yield from rule(files)


def git(*arguments):
    done = subprocess.run(["git", *arguments], text=True, capture_output=True)
    return done.stdout if done.returncode == 0 else None


def history():
    """Commits that the rule for subjects binds; None where the history is not there."""
    added = git("log", "--diff-filter=A", "--format=%H", "--", "scripts/check-style.py") or ""
    shallow = (git("rev-parse", "--is-shallow-repository") or "true").strip() == "true"
    for base in (FIRST_COMMIT, "origin/main", (added.split() or [""])[-1]):
        if not base or shallow and base != FIRST_COMMIT:
            continue
        if git("merge-base", "--is-ancestor", base, "HEAD") is not None:
            return (git("log", "--format=%h %s", f"{base}..HEAD") or "").splitlines()
    return None


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
    listed = git("ls-files", "--cached", "--others", "--exclude-standard")
    if listed is None:
        sys.exit("error: not a git checkout: which files are the project's is not known")
    files = []
    for path in sorted(set(listed.splitlines())):
        if SKIPPED.match(path) or not os.path.isfile(path):
            continue
        kind = os.path.splitext(path)[1]
        if kind in (".rs", ".sql", ".md", ".sh", ".toml") or path in ("Makefile", ".ci/run"):
            with open(path, encoding="utf-8", errors="replace") as file:
                files.append((path, file.read()))
        else:
            files.append((path, ""))
    found = list(findings(files))
    commits = history()
    if commits is None:
        print("skipped: commit subjects, the history is not here", file=sys.stderr)
    else:
        found += subjects(commits)
    for path, line, message in found:
        print(f"{path}:{line}: {message}" if line else f"{path}: {message}")
    if found:
        print(f"error: {len(found)} findings; the rules are in CONTRIBUTING.md", file=sys.stderr)
        sys.exit(1)


def self_test():
    long_name = "a" * (TEST_NAME + 1)
    sentence = "one two three " * 11
    # Rule, file, text that it must find, text that it must leave alone.
    each = [
        (width, "a.rs", "x" * 101, "x" * 100),
        (width, "a.sql", "-- https://" + "x" * 101, "x" * 100),
        (width, "a.md", "x " * 60, "| " + "x " * 60),
        (width, "a.md", "```\n```\n" + "x " * 60, "```\n" + "x " * 60 + "\n```"),
        (width, "a.sh", "x" * 101, "# https://" + "x" * 101),
        (test_names, "a.rs", f"#[test]\nfn {long_name}() {{", f"#[test]\nfn {long_name[1:]}() {{"),
        (test_names, "a.rs", f"#[test]\n#[ignore]\nfn {long_name}() {{", f"fn {long_name}() {{"),
        (words, "a.rs", "// Somebody waits", "fn somebody() {}"),
        (words, "a.rs", 'f("nobody is here")', "'\"'; nobody; '\"'"),
        (words, "a.rs", '/// It is passed\n/// over here', "/// It passes.\n/// Overall"),
        (words, "a.rs", 'r#"a "person" told"#', 'let r = 1; "report"'),
        (words, "a.rs", "#[test]\nfn what_nobody_told() {", "fn what_nobody_told() {"),
        (words, "a.sql", "COMMENT ON x IS 'People wait'", "SELECT people"),
        (words, "a.sql", "-- lies there", "-- applies there"),
        (words, "a.md", "It is no key of it any more.", "It is no longer a key. Any moreover."),
        (words, "a.md", "files of no\nuse", "files of use"),
        (words, "src/nobody_there.rs", "", "// besides"),
        (words, "Makefile", "mends", "amends, recommended"),
        (sentences, "ARCHITECTURE.md", sentence + ".", "one two three. " * 11),
        (sentences, "docs/a.md", "* " + sentence, "* one two three\n" * 11),
        (sentences, "README.md", sentence, "    " + sentence + "\n```\n" + sentence + "\n```\n"),
        (references, "a.md", "see docs/nowhere.md", "see scripts/check-style.py"),
        (references, "src/a.rs", "// see NOWHERE.md", 'f("NOWHERE.md")'),
    ]
    wrong = []
    for rule, path, bad, good in each:
        if not list(rule(path, bad)):
            wrong.append(f"{rule.__name__} does not find {bad!r} in {path}")
        path = "a.rs" if path == "src/nobody_there.rs" else path
        if list(rule(path, good)):
            wrong.append(f"{rule.__name__} finds {good!r} in {path}: {list(rule(path, good))}")
    # One for each line of the list, in its order.
    samples = (
        "nobody, somebody, everybody, anybody, whoever, a stranger, people, it is ours, is told,"
        " are none, anew, mended, in vain, passes over, no use of it any more, not there any more,"
        " it lies, beside it, at once, by the way, of no use, a thing, it is said"
    ).split(", ")
    for (pattern, _), sample in zip(WORDS, samples, strict=True):
        if not phrase(pattern).search(sample):
            wrong.append(f"{pattern} does not find {sample!r}")
    whole = [
        (type_names, ["Error", "State", "FileName"], ["Error", "FileName", "UserName", "WorkUnit"]),
        (type_names, ["FileName", "FileName"], ["FileName", "UserName"]),
    ]
    for rule, bad, good in whole:
        for names, expected in ((bad, True), (good, False)):
            files = [(f"{at}.rs", f"pub struct {name};") for at, name in enumerate(names)]
            if bool(list(rule(files))) != expected:
                wrong.append(f"{rule.__name__} over {names}: expected {expected}")
    for length, expected in ((TEST_NAME_MEDIAN + 1, True), (TEST_NAME_MEDIAN, False)):
        if bool(list(median([("a.rs", f"#[test]\nfn {'a' * length}() {{")]))) != expected:
            wrong.append(f"median of {length}")
    for length, expected in ((SUBJECT + 1, True), (SUBJECT, False)):
        if bool(list(subjects(["b33c7c6 " + "x" * length]))) != expected:
            wrong.append(f"subject of {length}")
    for message in wrong:
        print(message)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    if sys.argv[1:] == ["--self-test"]:
        os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir))
        self_test()
    if sys.argv[1:]:
        sys.exit("usage: check-style.py [--self-test]")
    main()
