"""What Jinja2, set up as transformers sets it up, makes of expressions, statements and whole chat templates.

Writes a JSON file with every case and its outcome. The cases are drawn with a fixed seed from values, operators, filters,
tests and methods; templates come from the installed packages (trl, axolotl) and from the fixtures of this repository.
"""

import copy
import datetime
import importlib.util
import json
import logging
import pathlib
import random
import sys
import warnings

import jinja2
from transformers.utils.chat_template_utils import _compile_jinja_template, _render_with_assistant_indices

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
NOW = datetime.datetime(2025, 3, 9, 7, 5, 3)
RANDOM = random.Random(15)

VALUES = [
    "none", "true", "false", "0", "1", "-3", "7", "1000000", "2.5", "-0.5", "1.0", "1e20", "1e-7", "123456.789",
    "''", "'a'", "'Hello World, again'", "' padded \\n'", "'ünïcödé ß ΑΣ'", "'12'", "'3.7'", "'0x1f'", "'x,y,,z'", "'a\\nb\\n\\nc'",
    "'%s is %d'", "'{} and {x}'", "\"it's\"", "'\\t\\x07é\\u200b'", "[]", "[1, 2, 3]", "['b', 'A', 'c', 'B']", "[[3, 4], [1, 2]]",
    "[0, '', none, 'x', 2.0]", "(1, 'a')", "(1,)", "()", "{}", "{'a': 1, 'b': [1, none]}", "{'z': 1, 'A': 2, 'm': 'q'}",
    "{1: 'one', true: 'yes', none: 2}", "missing", "missing_too|default(3)", "range(4)", "range(10, 0, -3)", "{'a': 1, 'b': 2}.items()",
    "{'b': 2}.keys()", "{'b': 2}.values()", "[{'n': 'x', 'v': 2}, {'n': 'Y', 'v': 1}, {'n': 'x', 'v': 0}]", "x", "tools", "messages",
    "messages[0]", "n.a", "n", "'<b>&\"x\"</b>'|e", "'safe <i>'|safe", "'Some words that are long enough to be wrapped or truncated somewhere'",
]
BINARY = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
FILTERS = [
    "abs", "attr('a')", "attr('upper')", "batch(2)|list", "batch(2, 'f')|list", "capitalize", "center", "center(9)", "center(width=12)", "count",
    "d('D')", "default('D', true)", "default(none)", "dictsort", "dictsort(true)", "dictsort(by='value')", "dictsort(reverse=true)", "e",
    "escape", "forceescape", "filesizeformat", "filesizeformat(true)", "first", "float", "float(9)", "format(1, 2)", "format('q', 5)",
    "groupby('n')", "groupby('v')", "groupby('n', default='k')", "indent", "indent(2, true)", "indent('> ', blank=true)", "int", "int(9)", "int(0, 16)",
    "int(base=8)", "items|list", "join", "join('-')", "join(', ', attribute='n')", "join(attribute='v')", "last", "length", "list", "lower",
    "map('upper')|list", "map('string')|list", "map(attribute='n')|list", "map(attribute='q', default='z')|list", "map('int')|list", "map('default', 'D')|list",
    "map('length')|list", "max", "max(attribute='v')", "max(case_sensitive=true)", "min", "min(attribute='n')", "pprint", "reject|list", "reject('none')|list",
    "reject('string')|list", "rejectattr('v')|list", "rejectattr('n', 'equalto', 'x')|list", "replace('a', 'bb')", "replace('', '-')", "replace('l', 'L', 1)",
    "reverse|list", "reverse", "round", "round(1)", "round(1, 'floor')", "round(2, 'ceil')", "round(-1)", "safe", "select|list", "select('odd')|list",
    "select('gt', 1)|list", "select('in', [1, 'a', 'x'])|list", "selectattr('n')|list", "selectattr('v', 'gt', 0)|list", "selectattr('n', '==', 'x')|list",
    "slice(2)|list", "slice(3, 'f')|list", "sort", "sort(true)", "sort(attribute='v')", "sort(attribute='n,v')", "sort(case_sensitive=true)",
    "string", "string|length", "striptags", "sum", "sum('v')", "sum(attribute='v', start=10)", "sum(start=[])", "title", "tojson", "tojson(indent=2)",
    "tojson(ensure_ascii=true)", "tojson(separators=(',', ':'))", "tojson(sort_keys=true)", "tojson(indent='\\t', sort_keys=true)", "tojson(true, 1)", "trim",
    "trim('a ')", "truncate", "truncate(9)", "truncate(9, true)", "truncate(8, false, '!', 0)", "truncate(5, leeway=1)", "unique|list", "unique(attribute='n')|list",
    "unique(true)|list", "upper", "urlencode", "wordcount", "wordwrap(10)", "wordwrap(7, false)", "wordwrap(12, wrapstring='|')", "xmlattr", "nosuchfilter",
    "first|upper", "list|length", "string|first", "tojson|length", "upper|lower|title", "length|string",
]
TESTS = [
    "boolean", "callable", "defined", "divisibleby(2)", "divisibleby 3", "eq(1)", "== 1", "equalto('a')", "escaped", "even", "false", "filter", "float",
    "ge(1)", "gt 1", "in([1, 'a', none])", "in 'abc'", "integer", "iterable", "le(2)", "lower", "lt('b')", "mapping", "ne(1)", "none", "number", "odd",
    "sameas true", "sameas(none)", "sequence", "string", "test", "true", "undefined", "upper", "not none", "not string", "not iterable", "nosuchtest",
]
METHODS = [
    "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "strip('a ')", "lstrip()", "rstrip('\\n')", "split()", "split(',')",
    "split(',', 1)", "split(maxsplit=1)", "rsplit(' ', 1)", "rsplit(none, 1)", "splitlines()", "splitlines(true)", "startswith('a')", "startswith(('H', ' '))",
    "endswith('n', 0, -1)", "find('o')", "find('o', 5)", "rfind('o')", "index('a')", "index(1)", "rindex('zz')", "count('a')", "count(1)", "replace('a', 'b')",
    "replace('a', 'b', 1)", "join(['x', 'y'])", "join([1])", "center(11, '*')", "ljust(8)", "rjust(8, '.')", "zfill(6)", "isdigit()", "isalpha()", "isalnum()", "isupper()",
    "islower()", "isspace()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isprintable()", "isascii()", "partition(' ')", "rpartition(',')",
    "removeprefix('He')", "removesuffix('n')", "expandtabs(4)", "format(1, x=2)", "format(*[3, 4], x='y')", "get('a')", "get('q', 5)", "get('q')", "keys()|list",
    "values()|list", "items()|list", "items()", "keys()", "copy()", "append(1)", "pop()", "update({})", "nosuch()", "bit_length()", "is_integer()", "real", "a", "A", "items", "upper", "0",
    "grouper", "format_map({'x': 1})", "__class__", "__init__.__globals__",
]
ITEMS = ["0", "-1", "1", "5", "'a'", "'upper'", "none", "1.5", "true", ":2", "1:", "::-1", "-2:", ":-1", "::2", "5:1:-2", "1:none", "'x':", "[1]", "::0"]
FORMATS = [
    "'%s'", "'%d'", "'%i|'", "'%5d|'", "'%-5d|'", "'%05d'", "'%+d'", "'% d'", "'%x'", "'%#X'", "'%o'", "'%e'", "'%.2f'", "'%10.3f|'", "'%g'", "'%G'", "'%#g'", "'%c'", "'%r'",
    "'%a'", "'%.2s|'", "'%6s|'", "'%%'", "'%s %s'", "'%(a)s'", "'%(a)05d|%(b)s'", "'%*d'", "'%q'", "'%'", "'plain'",
]
SPECS = ["", "5", "<5", ">8", "^9", "*^9", "05", "+", " ", ",", "_", "08.3f", ".2f", ".3", "e", "g", "G", "%", ".1%", "d", "x", "#x", "X", "b", "#b", "o", "c", "s", ".2s", "=+7", "010,", "n", "q", "!r", "!s:>9"]
FORMATTED = ["none", "true", "7", "-3", "1234567", "2.5", "-0.0001", "1e20", "123456.789", "'text'", "'é'", "(1, 2)", "[1]", "{'a': 1, 'b': 'x'}", "missing"]


def statements():
    yield from json.loads((pathlib.Path(__file__).parent / "template_statements.json").read_text(encoding="utf-8"))


def expressions():
    def some(all_of, most):
        all_of = list(all_of)
        return all_of if len(all_of) <= most else RANDOM.sample(all_of, most)

    yield from VALUES
    yield from some((f"{value}|{name}" for value in map(bracketed, VALUES) for name in FILTERS), 2600)
    yield from some((f"{value} is {name}" for value in map(bracketed, VALUES) for name in TESTS), 1500)
    yield from some((f"{a} {op} {b}" for a in map(bracketed, VALUES) for b in map(bracketed, VALUES) for op in BINARY), 2600)
    yield from some((f"{value}.{name}" for value in map(bracketed, VALUES) for name in METHODS), 1500)
    yield from some((f"{value}[{item}]" for value in map(bracketed, VALUES) for item in ITEMS), 700)
    yield from some((f"{form} % {bracketed(value)}" for form in FORMATS for value in FORMATTED + ["(1, 2)", "(5, 42)", "('a', 'b')"]), 500)
    yield from some((f"'{{{spec if spec[:1] == '!' else ':' + spec}}}'.format({value})" for spec in SPECS for value in FORMATTED), 500)
    yield from some((f"{sign}{value}" for sign in ["-", "+", "not ", "- -"] for value in map(bracketed, VALUES)), 200)
    yield from some((f"{a} {c} {b} {d} {a}" for a in ["1", "2.0", "'a'", "[1]", "none", "missing"] for b in ["1", "'b'", "[1, 2]"] for c in ["<", "==", "in"] for d in ["<=", "!=", "not in"]), 100)


def bracketed(value):
    return f"({value})"


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello <b>you</b>"}]
VARIABLES = {"x": {"a": 1, "b": [1, 2.5, None, True], "c": {"d": "é\n\"q\""}, "items": "shadow", "upper": None}}
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
PRELUDE = "{% set n = namespace(a=1, b='q') %}"


def outcome(source, messages, variables, prompt=False, spans=False):
    """What a rendering gives: a text, what the template raised, or that it failed."""
    try:
        compiled = _compile_jinja_template(source)
        compiled.globals["strftime_now"] = lambda form: NOW.strftime(form)
        given = {**TOKENS, "tools": None, "documents": None, "messages": messages, "add_generation_prompt": prompt, **variables}
        # A filter such as `indent` changes a list that it is given.
        given = copy.deepcopy(given)
        if not spans:
            return {"text": compiled.render(**given)}
        text, indices = _render_with_assistant_indices(compiled_template=compiled, **given)
        found = [[len(text[:start].encode()), len(text[:end].encode())] for start, end in indices if start < end]
        return {"text": text, "spans": found}
    except jinja2.exceptions.TemplateError as error:
        if type(error) is jinja2.exceptions.TemplateError:
            return {"raised": str(error)}
        return {"failed": type(error).__name__}
    except Exception as error:
        return {"failed": type(error).__name__}


def comparable(found):
    """A text that is no place in memory, and that UTF-8 can hold."""
    text = found.get("text", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return " at 0x" not in text and "<function" not in text


TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Says what the weather is like.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Which <city>", "enum": ["Köln", "Rome"]}, "days": {"type": ["integer", "null"], "default": 1}}, "required": ["city"]},
        "return": {"type": "string"},
    },
}
USER, ANSWER = {"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "Four."}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Köln", "days": 2}}}]}
RESULT = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"sky\": \"grey\"}"}
SYSTEM = {"role": "system", "content": "You are terse.\nVery."}
THOUGHT = {"role": "assistant", "content": "Four.", "reasoning_content": "Two and two.", "thinking": "Two and two."}
INLINE = {"role": "assistant", "content": "<think>\nTwo and two.\n</think>\n\nFour."}
CONVERSATIONS = {
    "one": [USER],
    "system": [SYSTEM, USER],
    "answered": [USER, ANSWER],
    "several": [SYSTEM, USER, ANSWER, {"role": "user", "content": " And 3+3? {{ 7 }} <|im_end|>"}, {"role": "assistant", "content": " Six,\n\nnaïve 😀 "}],
    "reasoning": [USER, THOUGHT, USER],
    "inline": [SYSTEM, USER, INLINE, USER, INLINE],
    "tools": [SYSTEM, USER, CALL, RESULT, {"role": "assistant", "content": "Grey."}],
    "parts": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}, {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]}],
    "developer": [{"role": "developer", "content": "Obey."}, USER],
    "assistant first": [ANSWER, USER],
    "nothing": [],
    "blank": [{"role": "user", "content": ""}, {"role": "assistant", "content": "  \n"}],
}
SETTINGS = [{}, {"tools": [TOOL]}, {"enable_thinking": False}, {"enable_thinking": True, "date_string": "26 Jul 2024"}, {"thinking": True, "reasoning_effort": "low", "tools": [TOOL], "documents": [{"title": "T", "text": "D"}]}]


def templates():
    fixtures = pathlib.Path(__file__).parents[2] / "crates/pv-model/tests/fixtures/chat/templates"
    for path in sorted(fixtures.glob("*.jinja")):
        yield "ours", path
    for package in ["trl", "axolotl"]:
        found = importlib.util.find_spec(package)
        for folder in found.submodule_search_locations if found else []:
            for path in sorted(pathlib.Path(folder).rglob("*.jinja")):
                yield package, path


def main(target):
    cases, left_out = [], 0
    for kind, sources in [("expression", expressions()), ("statement", statements())]:
        for source in dict.fromkeys(sources):
            whole = f"{PRELUDE}{{{{ {source} }}}}" if kind == "expression" else source
            expected = outcome(whole, MESSAGES, VARIABLES, spans=kind == "statement")
            if comparable(expected):
                cases.append({"kind": kind, "source": whole, "expected": expected})
            else:
                left_out += 1
    named = []
    for package, path in templates():
        source = path.read_text(encoding="utf-8")
        renders = []
        for talk, messages in CONVERSATIONS.items():
            for number, variables in enumerate(SETTINGS):
                for prompt in [False, True]:
                    expected = outcome(source, messages, variables, prompt, spans="{% generation" in source or "{%- generation" in source)
                    if comparable(expected):
                        renders.append({"talk": talk, "settings": number, "prompt": prompt, "expected": expected})
                    else:
                        left_out += 1
        named.append({"name": f"{package}/{path.stem}", "package": package, "source": source, "renders": renders})
    whole = {"messages": MESSAGES, "variables": VARIABLES, "tokens": TOKENS, "now": NOW.isoformat(), "conversations": CONVERSATIONS, "settings": SETTINGS, "cases": cases, "templates": named, "left_out": left_out}
    pathlib.Path(target).write_text(json.dumps(whole), encoding="utf-8")


main(sys.argv[1])
