//! Features of Jinja2 and Python that templates use, each with the rendering of transformers 5.24.

use super::*;

/// The rendering of a short conversation.
fn written(source: &str) -> Result<String, TemplateError> {
    text(source, &[Message::user("Hi"), Message::assistant("Hello")])
}

/// Fails on the first template whose rendering differs from the expected one.
fn check(cases: &[(&str, &str)]) {
    for (source, expected) in cases {
        match written(source) {
            Ok(text) => assert_eq!(text, *expected, "{source}"),
            Err(error) => panic!("{source}: {error}"),
        }
    }
}

fn fails(sources: &[&str]) {
    for source in sources {
        let outcome = ChatTemplate::from_source(*source, Map::new())
            .and_then(|template| template.render(&[Message::user("Hi")], &RenderOptions::default()));
        let failed = matches!(outcome, Err(TemplateError::Failed { .. } | TemplateError::Syntax { .. }));
        assert!(failed, "{source}: {outcome:?}");
    }
}

#[test]
fn none_is_not_iterable() {
    // The case template_none_is_iterable.
    let source = "{% if tools is iterable and tools | length > 0 %}tools{% endif %}{% for m in messages %}{{ m['role'] }} {% endfor %}";
    check(&[
        (source, "user assistant "),
        ("{{ none is iterable }}{{ none is sequence }}{{ 5 is iterable }}", "FalseFalseFalse"),
        ("{{ missing is iterable }}{{ missing is sequence }}{{ missing is mapping }}", "TrueTrueFalse"),
        (
            "{{ 'a' is sequence }}{{ {} is sequence }}{{ {}.items() is sequence }}{{ {}.items() is iterable }}",
            "TrueTrueFalseTrue",
        ),
        ("{{ missing is callable }}{{ raise_exception is callable }}{{ 'a'.upper is callable }}", "TrueTrueTrue"),
        ("{{ true is integer }}{{ true is number }}{{ 1.0 is float }}{{ 1 is boolean }}", "FalseTrueTrueFalse"),
    ]);
}

#[test]
fn values_are_written_as_python_writes_them() {
    check(&[
        ("{{ 1.0 }} {{ 1e16 }} {{ 1e-5 }} {{ 0.1 + 0.2 }} {{ -0.0 }}", "1.0 1e+16 1e-05 0.30000000000000004 -0.0"),
        ("{{ range(3) }} {{ range(1, 9, 2) }}", "range(0, 3) range(1, 9, 2)"),
        ("{{ [1, 'a', none, true, 2.0] }}", "[1, 'a', None, True, 2.0]"),
        ("{{ (1,) }} {{ () }} {{ {'a': \"it's\"} }}", "(1,) () {'a': \"it's\"}"),
        ("{{ [missing] }}[{{ missing }}]", "[Undefined][]"),
        ("{{ {'a': 1}.items() }}", "dict_items([('a', 1)])"),
        ("{{ ['\\n', '\\\\', 'é', '\\u200b'] }}", "['\\n', '\\\\', 'é', '\\u200b']"),
        ("{{ namespace(a=1) }}", "<Namespace {'a': 1}>"),
    ]);
}

#[test]
fn filters_are_those_of_jinja2() {
    check(&[
        ("{{ 'hello world foo bar' | truncate(11) }}", "hello..."),
        ("{{ 'hello world foo bar' | truncate(14) }}", "hello world foo bar"),
        ("{{ 'hello world foo bar' | truncate(11, leeway=0) }}", "hello..."),
        ("{{ 'hello world foo bar' | truncate(9, true) }}", "hello ..."),
        ("{{ 'a b-c, d_e' | wordcount }}", "4"),
        ("[{{ 'x' | center(4) }}][{{ 'ab' | center(5) }}]", "[ x  ][  ab ]"),
        ("{{ \"it's a-b (c)\" | title }}", "It's A-B (C)"),
        ("{{ 2.5 | round }} {{ 2.675 | round(2) }} {{ 1234 | round(-2) }}", "2.0 2.67 1200"),
        ("{{ '2.9' | int }} {{ 'x' | int(7) }} {{ '0x1f' | int(0, 16) }}", "2 7 31"),
        ("{{ [1, 2, 3] | batch(2, 0) | list }}{{ [1, 2, 3] | slice(2) | list }}", "[[1, 2], [3, 0]][[1, 2], [3]]"),
        ("{{ messages | groupby('role') | map(attribute='grouper') | list }}", "['assistant', 'user']"),
        ("{{ {'b': 1, 'A': 2} | dictsort }}", "[('A', 2), ('b', 1)]"),
        ("{{ [1, 1.0, 2] | unique | list }}{{ ['b', 'A'] | sort }}", "[1, 2]['A', 'b']"),
        ("{{ '%s: %05.1f' | format('a', 2) }}", "a: 002.0"),
        ("{{ 1500000 | filesizeformat }} {{ 'a b&c' | urlencode }}", "1.5 MB a%20b%26c"),
        ("{{ ('<a>' | e) ~ '<b>' }}{{ ('<a>' | safe) + '<b>' }}", "&lt;a&gt;<b><a>&lt;b&gt;"),
        ("{% set odd = [1, 2, 3] | select('odd') %}{{ odd | list }}{{ odd | list }}", "[1, 3][]"),
    ]);
    fails(&[
        "{{ none | list }}",
        "{{ 5 | length }}",
        "{{ missing | int }}",
        "{{ [1, 'a'] | sort }}",
        "{{ ['a'] | sum }}",
    ]);
}

#[test]
fn json_is_written_as_transformers_has_it() {
    check(&[
        ("{{ {'a': [1.0, none, 'é<'], 1: true} | tojson }}", "{\"a\": [1.0, null, \"é<\"], \"1\": true}"),
        ("{{ [1, {}] | tojson(indent=2) }}", "[\n  1,\n  {}\n]"),
        ("{{ {'b': 1, 'a': 'é'} | tojson(true, none, (',', ':'), true) }}", "{\"a\":\"\\u00e9\",\"b\":1}"),
        ("{{ (1, 'x') | tojson(separators=[', ', '=']) }}", "[1, \"x\"]"),
    ]);
    fails(&["{{ missing | tojson }}", "{{ range(2) | tojson }}", "{{ {(1, 2): 3} | tojson }}"]);
}

#[test]
fn operators_are_those_of_python() {
    check(&[
        ("{{ 7 / 2 }} {{ 6 / 2 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7.5 // 2 }}", "3.5 3.0 3 -4 2 3.0"),
        ("{{ 2 ** 3 ** 2 }} {{ 2 ** -1 }} {{ -2 ** 2 }}", "64 0.5 4"),
        ("{{ '%s %d%%' % ('a', 5) }} {{ '%(k)r' % {'k': 'v'} }}", "a 5% 'v'"),
        ("{{ 'a' ~ 1.0 ~ none ~ missing ~ [1] }}", "a1.0None[1]"),
        ("{{ 1 < 2 < 3 }}{{ 1 == 1.0 == true }}{{ [1, 2] < [1, 3] }}", "TrueTrueTrue"),
        ("{{ 'ab' * 2 }}{{ 2 * [1] }}{{ (1,) + (2,) }}", "abab[1, 1](1, 2)"),
        ("{{ 'abc'[::-1] }}{{ 'abc'[-2:] }}{{ (1, 2, 3)[1:] }}{{ range(9)[2:8:3] }}", "cbabc(2, 3)range(2, 8, 3)"),
        ("{{ none.a }}{{ none[0] }}{{ [1][5] }}", ""),
        ("{{ 'a' in missing }}{{ missing == none }}", "FalseFalse"),
    ]);
    fails(&[
        "{{ 1 < 'a' }}",
        "{{ none < 1 }}",
        "{{ 'a' + 1 }}",
        "{{ 'a' + missing }}",
        "{{ 1 // 0 }}",
        "{{ missing.a }}",
        "{{ missing[1:] }}",
    ]);
}

#[test]
fn methods_are_those_of_python() {
    check(&[
        ("{{ 'a,b,,c'.split(',', 2) }}{{ ' a  b '.split() }}", "['a', 'b', ',c']['a', 'b']"),
        ("{{ '{:>4}|{!r}|{a[0]}'.format(1, 'x', a=[7]) }}", "   1|'x'|7"),
        ("{{ 'ß'.upper() }}{{ 'ΑΣ'.lower() }}{{ 'ab'.zfill(4) }}{{ 'x'.join('ab') }}", "SSας00abaxb"),
        ("{{ 'abcabc'.rfind('b') }}{{ 'abc'.find('z') }}{{ 'a'.startswith(('b', 'a')) }}", "4-1True"),
        ("{{ {'a': 1}.get('b', 2) }}{{ [1, 2, 1].count(1) }}{{ (1, 2).index(2) }}", "221"),
        ("{{ {'items': 5}.items is callable }}{{ {'items': 5}['items'] }}", "True5"),
    ]);
    // The sandbox: methods that change a value are not available.
    fails(&["{{ [].append(1) }}", "{{ {}.update({'a': 1}) }}", "{{ ''.__class__.__mro__ }}", "{{ range(100001) }}"]);
}

#[test]
fn a_generation_block_may_set_a_namespace() {
    // The case template_generation_block_sets_namespace.
    let source = "{% set ns = namespace(first=true) %}{% for m in messages %}{% generation %}{{ ns.first }}{% set ns.first = false %}\
        {% endgeneration %}{% endfor %}";
    check(&[
        (source, "TrueFalse"),
        (
            "{% set n = namespace(i=0) %}{% macro f() %}{% set n.i = n.i + 1 %}{% endmacro %}{{ f() ~ f() }}{{ n.i }}",
            "2",
        ),
        (
            "{% set n = namespace() %}{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{% set n.x = 1 %}{% endcall %}{{ n.x }}",
            "1",
        ),
        (
            "{% set n = namespace(x=1) %}{% set t %}{% set n.x = 2 %}{% endset %}{% filter upper %}{% set n.x = n.x + 1 %}{% endfilter %}{{ n.x }}",
            "3",
        ),
        ("{% set n = namespace() %}{% set n.a, b = 1, 2 %}{{ n.a + b }}", "3"),
        ("{% generation %}{% set q = 1 %}{% endgeneration %}{{ q is defined }}", "False"),
    ]);
    let rendered =
        template(source).render(&[Message::user("a"), Message::user("b")], &RenderOptions::default()).unwrap();
    assert_eq!(rendered.generation_spans, [0..4, 4..9]);
    fails(&["{% set x = {} %}{% set x.y = 1 %}", "{% set n = namespace() %}{% set n._x = 1 %}", "{% generation %}"]);
}

#[test]
fn a_clock_is_asked_for_by_name_wherever_it_is_used() {
    // The case template_clock_in_macro, and its siblings.
    for source in [
        "{% set day = strftime_now('%d %B %Y') %}{{ day }}",
        "{% macro day() %}{{ strftime_now('%Y') }}{% endmacro %}{{ day() }}",
        "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}{{ strftime_now('%Y') }}{% endcall %}",
        "{% generation %}{{ strftime_now('%Y') }}{% endgeneration %}",
        "{% set clock = strftime_now %}{{ clock('%Y') }}",
        "{% filter upper %}{{ strftime_now('%Y') }}{% endfilter %}",
        "{% for m in messages if strftime_now('%Y') %}{% endfor %}",
        "{{ strftime_now('%Y') | int }}",
    ] {
        let outcome = written(source);
        assert!(matches!(outcome, Err(TemplateError::NeedsClock)), "{source}: {outcome:?}");
        let options =
            RenderOptions { now: Some(jiff::civil::date(2025, 7, 29).at(0, 0, 0, 0)), ..RenderOptions::default() };
        let with_clock = template(source).render(&[Message::user("Hi")], &options).map(|rendered| rendered.text);
        assert!(with_clock.is_ok(), "{source}: {with_clock:?}");
    }
}

#[test]
fn names_have_the_scopes_of_jinja2() {
    check(&[
        ("{% set x = 1 %}{% for i in [1, 2] %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}", "2,3,1"),
        (
            "{% if true %}{% set y = 1 %}{% endif %}{{ y }}{% with y = 2, z = y %}{{ y }}{{ z }}{% endwith %}{{ y }}",
            "1211",
        ),
        ("{% set x = 1 %}{% macro f(a, b=a) %}{{ x }}{{ a }}{{ b }}{% endmacro %}{% set x = 2 %}{{ f(3) }}", "233"),
        ("{% macro f() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, k=2) }}", "(1,){'k': 2}"),
        ("{% macro f() %}<{{ caller(1) }}>{% endmacro %}{% call(a, b=2) f() %}{{ a + b }}{% endcall %}", "<3>"),
        (
            "{% for x in [1, 2, 3] if x is odd %}{{ loop.index }}/{{ loop.length }}{{ loop.last }},{% endfor %}",
            "1/2False,2/2True,",
        ),
        (
            "{% for x in [1, 2, 3] %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% if x == 3 %}{% break %}{% endif %}{% endfor %}",
            "13",
        ),
        (
            "{% for x in [[1, [2]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
            "(1(2))",
        ),
        (
            "{% set c = cycler('a', 'b') %}{{ c.next() ~ c.next() ~ c.next() }}{% set j = joiner('|') %}{{ j() ~ 1 ~ j() ~ 2 }}",
            "aba1|2",
        ),
    ]);
    fails(&[
        "{% break %}",
        "{% for loop in [1] %}{% endfor %}",
        "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}",
        "{{ missing() }}",
    ]);
}

#[test]
fn nesting_ends_with_an_error() {
    let deep = |open: &str, middle: &str, close: &str, levels: usize| {
        format!("{}{middle}{}", open.repeat(levels), close.repeat(levels))
    };
    for source in [
        format!("{{{{ {} }}}}", deep("(", "1", ")", 5000)),
        format!("{{{{ {} }}}}", deep("[", "1", "]", 5000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(20_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(5000)),
        format!("{{{{ 1{} }}}}", "+1".repeat(5000)),
        format!("{{{{ 1{} }}}}", "|abs".repeat(5000)),
        format!("{{{{ x{} }}}}", ".a".repeat(5000)),
        format!("{{{{ x{} }}}}", "[0]".repeat(5000)),
        format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(5000)),
        deep("{% if true %}", "x", "{% endif %}", 2000),
        deep("{% for i in [1] %}", "x", "{% endfor %}", 2000),
        format!("{{% for {} in x %}}{{% endfor %}}", deep("(", "a", ")", 5000)),
    ] {
        let outcome = ChatTemplate::from_source(source.as_str(), Map::new());
        assert!(matches!(outcome, Err(TemplateError::Syntax { .. })), "{}", &source[..40]);
    }
    for source in [
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% set n = namespace(s=1) %}{% for i in range(9999) %}{% set n.s = (n.s,) %}{% endfor %}",
        "{% set n = namespace(s=1) %}{% for i in range(9999) %}{% set n.s = {'a': n.s} %}{% endfor %}",
        "{% set n = namespace() %}{% set n.n = n %}{{ n }}",
        "{% for x in [[1]] recursive %}{{ loop([x]) }}{% endfor %}",
        "{% set n = namespace(f='upper') %}{% macro a() %}{{ caller() }}{% endmacro %}{% macro b() %}{% call a() %}{{ b() }}{% endcall %}{% endmacro %}{{ b() }}",
    ] {
        let error = written(source).unwrap_err();
        assert!(matches!(error, TemplateError::Runaway { limit: "nesting" }), "{source}: {error}");
    }
    // Well within the limits: sixty nested calls.
    check(&[(
        "{% macro f(n) %}{% if n %}{% for i in [1] %}{{ f(n - 1) }}{% endfor %}{% else %}end{% endif %}{% endmacro %}{{ f(60) }}",
        "end",
    )]);
    let mut deep = json!(1);
    for _ in 0..1000 {
        deep = json!([deep]);
    }
    let options = RenderOptions { variables: object(json!({ "deep": deep })), ..RenderOptions::default() };
    let outcome = template("{{ deep }}").render(&[], &options);
    assert!(matches!(outcome, Err(TemplateError::Runaway { limit: "nesting" })), "{outcome:?}");
}

#[test]
fn memory_ends_with_an_error() {
    for source in [
        "{{ 'x'.center(99999999999) }}",
        "{{ '%99999999s' % 'x' }}",
        "{{ '{:99999999}'.format('x') }}",
        "{{ [1] * 99999999999 }}",
        "{{ 'a' | indent(9999999999) }}",
        "{{ [1] | batch(99999999999, 0) | list }}",
        "{{ [1] | tojson(indent=99999999999) }}",
        "{{ 'aaaaaaaa'.replace('', 'b' * 60000000) }}",
        "{% set n = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set n.s = n.s.replace('x', n.s) %}{% endfor %}",
        "{% set n = namespace(s=[1]) %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 9999 }}{% endfor %}",
    ] {
        let error = written(source).unwrap_err();
        assert!(matches!(error, TemplateError::Runaway { limit: "steps and memory" }), "{source}: {error}");
    }
}
