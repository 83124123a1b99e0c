#!/usr/bin/env python3
"""Remakes the files beside it by transformers and Jinja2.

    python3 -m venv v && v/bin/pip install transformers jinja2
    ./convert data/models/SmolLM2-135M-Instruct.Q4_1.gguf /tmp/smollm2 --format hf    # its tokenizer as transformers reads it
    v/bin/python test/golden/chat/make.py /tmp/smollm2

jinja.json    pieces of templates and what they render to in transformers' own environment; "error" where Jinja2 refuses
known.json    conversations in the forms of io/chat_template_known.c, written by the functions below from the forms' descriptions
smollm2.json  text, ids and the mask of assistant tokens by apply_chat_template; the model's own template is not in the file"""
import json
import pathlib
import sys

import datetime

from transformers.utils import chat_template_utils
from transformers.utils.chat_template_utils import _compile_jinja_template

HERE = pathlib.Path(__file__).parent

TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "Größe \"x\"\n"},
    {"role": "assistant", "content": "日本語 ok"},
    {"role": "user", "content": "bye"},
]
VARIABLES = {
    "messages": TALK, "add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", "tools": None,
    "s": "  héllo wörld  ", "empty": "", "n": 7, "m": -7, "x": 2.5, "yes": True, "no": False, "none_here": None,
    "list": [3, 1, 2], "words": ["a", "b", "c"], "nested": [[1, 2], [3, 4]],
    "dict": {"a": 1, "b": [1, 2.5, None, True], "items": "hidden", "c": {"d": "e"}},
    "people": [{"name": "Ann", "age": 30, "at": {"city": "Rome"}}, {"name": "Bob", "at": {"city": "Oslo"}}, {"name": "Cid", "age": 0, "at": {}}],
    "odd": "tab\there \"quoted\" back\\slash \r \b \f \u0001 \u007f é 日 𝄞",
}

# ---- white space and marks ----
SPACE = [
    "", "\n", "a\n", "a\n\n", "a\r\nb\rc\r\n", "{{ 1 }}\n", "{{ 1 }}\n\n",
    "{% if yes %}\na\n{% endif %}\nb\n", "  {% if yes %}\n  a\n  {% endif %}\n  b", "x  {% if yes %}  a  {% endif %}  b",
    "  {%+ if yes %}\n  a\n  {%+ endif +%}\n  b", "  {%- if yes -%}\n  a\n  {%- endif -%}\n  b", "a\n  {{- 1 -}}\n  b", "a \n {{ 1 }} \n b",
    "  {{ 1 }}\n{{ 2 }}  \n", "a\n\n\n   {%- set q = 1 %}\n\n\nb{{ q }}", "{# note #}\na", "  {# note #}\n  a", "a {#- note -#} b", "a {#+ note +#}\n b",
    "{# a {{ b }} {% c %} #}x", "{#-#}x", "a{% raw %} {{ b }} {% if %} {% endraw %}c", "a\n  {%- raw -%}  {{ b }}\n  {%- endraw -%}\n  c",
    "{% raw %}\n x\n  {% endraw %}\ny", "{%- for i in words -%}\n {{ i }} \n{%- endfor -%}\nend", "{% for i in words %}\n  {{ i }}\n{% endfor %}\nend\n",
    "\t {% if yes %}\t\n\tb{% endif %}", "{% if yes %}{% if yes %}\n  x{% endif %}{% endif %}", "{% set a = 1 %}\n\n{% set b = 2 %}\n{{ a }}{{ b }}",
    "a {{ '}}' }} {{ \"{%\" }} b", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{- '' }}  x", "{{ 1 -}}\n\n x", "\u00a0{%- if yes -%}\u2003x{%- endif %}", "{{+1}}", "{{-1}}", "{{ -1 }}",
    "{ % x } { { }} # %}", "a\n \n  {% if yes %}b{% endif %}", "{% if yes -%}   \n\n  a{% endif %}", "x{% if yes %}\r\ny{% endif %}",
    "{%\nif\nyes\n%}a{%endif%}", "{{\n1\n}}", "{{'a'}}{{'b'}}", "x {%- endraw -%}",
]

# ---- values and operators ----
VALUE = [
    "'a' 'b'", "'it\\'s \\\"q\\\" \\n\\t\\\\ \\x41\\u00e9\\U0001d11e \\d'", "\"a\\\nb\"", "'\\0'", "1_000", "1.5", "1e3", "2.0", "1e16", "1.5e-7", "0.1 + 0.2", "100.0 / 3", "1e15",
    "123456789.125", "none", "true", "True", "None", "undefined_name", "[]", "()", "{}", "[1,]|length", "(1,)|length", "{'a': 1,}|length",
    "1 + 2 * 3", "(1 + 2) * 3", "7 // 2", "m // 2", "m % 3", "n % -3", "7 / 2", "7.5 // 2", "-7.5 % 2", "1 - 2 - 3", "- n", "+ n", "--n", "1 / 0", "n % 0", "2 ** 3",
    "'a' + 'b'", "'a' ~ 1 ~ none ~ true", "1 ~ 2 + 3", "1 + 2 ~ 3", "'a' + 1", "'a' + none", "none_here ~ 'x'", "missing ~ 'x'", "missing + 'x'", "[1] + [2] == [1, 2]", "yes + 1",
    "1 == 1.0", "true == 1", "'1' == 1", "none == none", "missing == none", "missing == missing", "[1, [2]] == [1, [2]]", "{'a': 1} == {'a': 1}", "dict == {'a': 1}", "1 != 2",
    "1 < 2 < 3", "1 < 3 < 2", "'a' < 'b'", "'é' > 'z'", "'a' < 1", "3 >= 3", "1 == 1 == 1", "n in list", "3 in list", "'a' in words", "'a' not in words", "'ö' in s", "'a' in dict", "'z' in dict",
    "'a' in missing", "1 in 'a'", "1 in none", "not yes", "not not yes", "not yes == no", "yes and n", "no or 'x'", "no and missing.x", "1 and 0 or 2", "empty or 'x'",
    "'t' if yes else 'f'", "'t' if no", "'t' if no else 'u' if no else 'v'", "('t' if no) is defined", "1 if yes else 2 + 3", "missing is defined", "s is defined", "not missing is defined",
    "missing is not defined", "s is string", "list is iterable", "list is sequence", "s is iterable", "dict is mapping", "list is mapping", "none_here is none", "none is not none", "n is number", "x is float",
    "n is integer", "yes is boolean", "yes is integer", "yes is number", "yes is true", "no is false", "1 is true", "n is odd", "n is even", "n is divisibleby 7", "n is divisibleby(2)", "n is eq 7", "n is equalto(7)",
    "n is ne 7", "n is gt 3", "n is lt(3)", "n is ge 7", "n is le 6", "3 is in list", "3 is in [1, 2]", "n is unheard_of", "s is defined and n is defined or no", "s is none or yes", "missing.x is defined",
    "[1, 2.5, none, true, 'a']", "(1,)", "1, 2", "{'a': [1, {'b': ()}], 'c': 'd'}", "['it\\'s', '\"', '\\'\"', '\\n\\t\\r\\\\', '\\x01\\x7f']", "words", "dict", "messages[0:1]", "['é']", "[missing]", "[1] == (1,)", "(1, 2) == (1, 2)", "[1] + (1,)",
    "(1,) + (2,)", "(1, 2, 3)[1:]", "(1, 2)|list", "nested|string", "words ~ 1", "dict.items()|list", "(1, 2)|tojson", "1 in (1, 2)", "dict.a", "dict['a']", "dict.missing", "dict['missing']", "dict.missing.x", "dict.c.d", "dict['c'].d", "dict.items()|length", "dict['items']", "list[0]", "list[-1]", "list[9]", "list[-9]", "list['a']",
    "s[2]", "s[-3]", "s[99]", "s.unknown", "none_here.x", "none_here['x']", "n.x", "missing.x", "missing[0]", "words[1:]|join", "words[:-1]|join", "words[::-1]|join", "words[::2]|join", "words[5:]|join",
    "words[-2:]|join", "words[2:0:-1]|join", "words[:]|join", "s[3:6]", "s[::-1]", "s[-4:-2]", "words[::0]", "words[none:2]|join", "words['a':]", "n[1:]", "nested[1][0]", "messages[0]['content']", "messages[-1].role",
    "messages[1:][0].role", "'%s' % 'a'", "'ab' * 2", "'-' * 0", "'-' * -3", "[1] * 2", "people[0].at.city", "(1, 2)[1]", "{'k': 'v'}.k", "words[n - 6]", "'abc'[1]", "'x' is string and 'y'", "1 is not string", "'a' 'b' ~ 'c'",
]

# ---- filters, methods, functions ----
CALL = [
    "s|trim", "' a '|trim|length", "'xxaxx'|trim('x')", "none_here|trim", "n|trim", "s|length", "list|length", "dict|length", "missing|length", "n|length", "words|count", "'abC d'|upper", "'ABc'|lower", "'aB c'|capitalize",
    "'aBa'|replace('a', 'x')", "'aaa'|replace('a', 'b', 2)", "words|join", "words|join('-')", "words|join(', ')|upper", "list|join(',')", "'abc'|join('.')", "people|join('/', attribute='name')", "missing|join('x')", "[1, none, 'a']|join('|')",
    "words|first", "words|last", "[]|first", "'abc'|first", "[]|last", "words|list|length", "'abc'|list|join('-')", "dict|list|join(',')", "words|reverse|join", "'abc'|reverse", 
    "missing|default('d')", "none_here|default('d')", "none_here|default('d', true)", "empty|default('d', true)", "empty|default('d', boolean=true)", "missing|default", "missing.x|default('d')", "dict.zz|d('q')", "s|default('d')|trim",
    "n|string ~ 1", "'12'|int + 1", "'x'|int", "'x'|int(5)", "'3.7'|int", "3.7|int", "true|int", "'a'|safe", "odd|tojson", "dict|tojson", "[]|tojson", "{}|tojson", "none|tojson", "'é'|tojson", "odd|tojson(ensure_ascii=true)", "1.0|tojson",
    "1e16|tojson", "people|tojson(indent=2)", "dict|tojson(indent=4)", "[[], {}]|tojson(indent=1)", "{'a': 1, 'b': [1, 2]}|tojson(separators=(',', ':'))", "missing|tojson", "dict|tojson(indent=none)", "dict|tojson(false, 1)", "odd|tojson(true)", "people|map(attribute='name')|join(',')",
    "people|map(attribute='at.city')|join(',')", "people|map(attribute='age', default=1)|join(',')", "words|map('upper')|join", "people|selectattr('age')|map(attribute='name')|join", "people|selectattr('name', 'equalto', 'Bob')|map(attribute='name')|first",
    "people|selectattr('age', 'defined')|list|length", "people|rejectattr('name', 'eq', 'Ann')|list|length", "messages|selectattr('role', 'in', ['user', 'system'])|list|length", "list|select('odd')|join", "list|reject('gt', 2)|join(',')", "words|select|join",
    "messages|selectattr('role', 'equalto', 'nobody')|list|length", "'a\\nb\\n\\nc'|indent", "'a\\nb'|indent(2)", "'a\\nb'|indent(2, true)", "'a\\n\\nb'|indent(width=1, first=true, blank=true)", "'a'|no_such_filter", "s|trim|upper", "-1|string", "(-1)|string",
    "s.strip()", "'xxa'.lstrip('x')", "'axx\\n'.rstrip('x\\n')", "s.strip().split(' ')|length", "' a  b '.split()|join('-')", "'a,b,,c'.split(',')|join('-')", "'a,b,c'.split(',', 1)|join('-')", "' a b c '.split(none, 1)|join('-')", "'a</t>b'.split('</t>')[-1]",
    "''.split(',')|length", "''.split()|length", "'abc'.startswith('ab')", "'abc'.endswith('bc')", "'abc'.startswith(('x', 'a'))", "'abc'.endswith('x')", "'aXa'.replace('a', 'b')", "'aaa'.replace('a', 'b', 1)", "'abc'.upper()", "'ABC'.lower()", "'ab cd'.title()",
    "'ab cd'.capitalize()", "'-'.join(words)", "'añb'.find('b')", "'abc'.find('z')", "'aXbXc'.count('X')", "'abc'.split('')", "dict.keys()|join(',')", "dict.values()|list|length", "dict.get('a')", "dict.get('zz')", "dict.get('zz', 'q')", "none_here.strip()", "missing.strip()",
    "s.no_such_method()", "dict.update({})", "range(3)|join", "range(1, 4)|join", "range(5, 0, -2)|join(',')", "range(0)|list|length", "range(3)[1]", "namespace(a=1).a", "dict()", "raise_exception('no')", "no_such_function()", "n()", "range is defined", "words.append('x')",
    "messages|length > 3", "(messages|first).role", "messages|map(attribute='role')|join(' ')", "'a'|trim is string", "words|first ~ words|last", "s | trim | length + 1", "not s|trim", "'x' in s|trim", "dict|items|first|join('=')", "{'b': 1, 'A': 2, 'a': 3, 'ab': 4}|dictsort", "{'b': 1, 'A': 2}|dictsort(true)", "dict|dictsort|length", "{'b': 1}|dictsort(by='value')", "n|dictsort", "'é'.strip('é') ~ '|'", "'\\u3000a\\u00a0'.strip()",
]

# ---- statements ----
STATEMENT = [
    "{% if n > 9 %}a{% elif n > 5 %}b{% elif n > 1 %}c{% else %}d{% endif %}", "{% if no %}a{% endif %}x", "{% if no %}a{% else %}b{% endif %}", "{% if missing %}a{% else %}b{% endif %}",
    "{% for w in words %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{ w }};{% endfor %}",
    "{% for w in words %}{{ loop.previtem }}<{{ w }}>{{ loop.nextitem }} {% endfor %}", "{% for w in words %}{{ loop.previtem is defined }}{{ loop.depth }}{% endfor %}", "{% for x in [] %}a{% else %}b{% endfor %}", "{% for x in missing %}a{% else %}b{% endfor %}",
    "{% for x in list if x > 1 %}{{ x }}:{{ loop.index }}/{{ loop.length }} {% endfor %}", "{% for x in list if x > 9 %}a{% else %}none{% endfor %}", "{% for k, v in dict.items() %}{{ k }}={{ v|tojson }};{% endfor %}", "{% for k, v in dict|items %}{{ k }};{% endfor %}",
    "{% for k in dict %}{{ k }}{% endfor %}", "{% for a, b in nested %}{{ a + b }} {% endfor %}", "{% for (a, b) in nested %}{{ a }}{% endfor %}", "{% for a, b in list %}{{ a }}{% endfor %}", "{% for c in 'aé日' %}[{{ c }}]{% endfor %}", "{% for x in none_here %}{% endfor %}",
    "{% for x in n %}{% endfor %}", "{% for i in range(3) %}{% for j in range(i) %}{{ i }}{{ j }}{{ loop.depth }} {% endfor %}{% endfor %}", "{% for x in list %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in list %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}z",
    "{% for x in words %}{% for y in words %}{% if y == 'b' %}{% break %}{% endif %}{{ x }}{{ y }}{% endfor %}{% endfor %}", "{% set a = 1 %}{% for x in words %}{% set a = 2 %}{{ a }}{% endfor %}{{ a }}", "{% set a = 1 %}{% if yes %}{% set a = 2 %}{% endif %}{{ a }}",
    "{% set ns = namespace(a=1, found=false) %}{% for x in words %}{% set ns.a = ns.a + 1 %}{% endfor %}{{ ns.a }}{{ ns.found }}", "{% set ns = namespace() %}{% set ns.t = '' %}{% for w in words %}{% set ns.t = ns.t ~ w %}{% endfor %}{{ ns.t }}{{ ns.missing }}", "{% set dict.a = 5 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set t = 1, 2 %}{{ t|length }}", "{% set a, b = list %}", "{% set block %}x{{ n }}y{% endset %}[{{ block }}]", "{% set block | upper | trim %} abc {% endset %}[{{ block }}]", "{% set a = 'x' %}{% set a %}{{ a }}{{ a }}{% endset %}{{ a }}",
    "{% macro f(a, b='B') %}<{{ a }}{{ b }}>{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4) }}{{ f() }}", "{% macro f(a) %}{% if a > 0 %}{{ a }}{{ f(a - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "{% macro f() %}{{ n }}{{ late }}{% endmacro %}{% set late = 'L' %}{{ f() }}",
    "{% macro f() %}a{% endmacro %}{% set x = f() | upper %}{{ x }}", "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(z=2) }}", "{% for x in words %}{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% endfor %}", "{% macro f(a) %}{% for x in a %}{{ x }}{{ loop.index }}{% endfor %}{% endmacro %}{% for w in words %}{{ f(words) }}{{ loop.index }}{% endfor %}",
    "{% set messages = messages[1:] %}{{ messages|length }}", "{% for message in messages %}{% set content = message.content %}{{ content|trim }}{% endfor %}{{ content is defined }}", "{% if messages[0].role == 'system' %}{% set system = messages[0]['content']|trim %}{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}{{ system }}{{ loop_messages|length }}",
    "{% generation %}a{% endgeneration %}b", "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.role }}{% endif %}{% endfor %}", "{% break %}", "{% if %}", "{% endif %}", "{% if yes %}", "{% for x words %}{% endfor %}", "{{ 1", "{{ 'a }}", "{% if yes %}a{% endfor %}", "{{ }}", "{{ 1 2 }}", "{{ a..b }}", "{{ [1 }}", "{{ (1 }}", "{# a", "{% raw %}x", "{{ 1 + }}", "{{ x is }}", "{{ x | }}", "{{ {1} }}", "{{ ! }}", "{% unknown_tag %}", "{{ 'a' if }}", "{% set = 1 %}", "{% set a b %}",
    "{{ messages[0].content if messages[0].role == 'system' else 'default' }}", "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\\n' + m['content'] | trim + eos_token + '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}", "{%- if tools is not none and tools %}t{%- else %}no tools{%- endif %}", "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools is none }}", "{% if not date_string is defined %}{% set date_string = '26 Jul 2024' %}{% endif %}{{ date_string }}", "{% if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}{{ tools is none }}", "{% set ns = namespace(i=-1) %}{% for m in messages[::-1] %}{% set index = (messages|length - 1) - loop.index0 %}{% if ns.i < 0 and m.role == 'user' %}{% set ns.i = index %}{% endif %}{% endfor %}{{ ns.i }}",
    "{% for m in messages %}{{ loop.index0 }}{% if not loop.last %},{% endif %}{% endfor %}", "{% set x = {'a': [1, {'b': 2}]} %}{{ x.a[1].b }}", "{% for i in range(messages|length) %}{{ messages[i].role[0] }}{% endfor %}", "{{ loop is defined }}", "{% set loop = 5 %}{{ loop }}", "{% for x in words %}{{ x }}{% if loop.index is even %}!{% endif %}{% endfor %}",
]


# ---- dates: of one moment ----
NOW = 1709211909  # Thursday, 29 February 2024, 13:05:09 in UTC
DATE = [
    "strftime_now('%d %b %Y')", "strftime_now('%Y-%m-%d')", "strftime_now(format='%A, %B %-d, %Y')", "strftime_now('%H:%M:%S.%f')", "strftime_now('[%z][%Z]')",
    "strftime_now('%j %U %w %y %I %p %a')", "strftime_now('100%% am %d.')", "strftime_now('%%d%%f')", "strftime_now('')", "strftime_now('heute, ä')", "strftime_now('%c|%x|%X')",
    "strftime_now(1)", "strftime_now()", "strftime_now('%d', 1)", "strftime_now is defined", "strftime_now('%d')|int + 1",
]


class Then(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None)


chat_template_utils.datetime = Then


def case(source):
    template = None
    try:
        template = _compile_jinja_template(source)
        if "{% generation %}" in source:
            text, spans = [], []
            with template.environment.activate_tracker(text, spans):
                for piece in template.generate(**VARIABLES):
                    text.append(piece)
            return {"source": source, "text": "".join(text), "spans": [list(s) for s in spans]}
        return {"source": source, "text": template.render(**VARIABLES)}
    except Exception as e:  # noqa: BLE001: whatever Jinja2 says against it
        return {"source": source, "error": f"{type(e).__name__}: {e}"[:200]}


# ---- forms by name ----
BOS, EOS = "<s>", "</s>"
VICUNA = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the "
          "user's questions. ")
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"


def turns(talk, prompt, write, opening, first=""):
    return first + "".join(write(m["role"], m["content"]) for m in talk) + (opening if prompt else "")


def bracketed(talk, user, answer, system=lambda s: s + "\n\n"):
    """[INST] forms: the system's words stand in front of the first user's."""
    out, lead = "", ""
    for m in talk:
        if m["role"] == "system":
            lead = system(m["content"])
        elif m["role"] == "user":
            out, lead = out + user(lead + m["content"], lead), ""
        else:
            out += answer(m["content"])
    return out


def llama2(talk, prompt):
    out, lead = "", ""
    for m in talk:
        if m["role"] == "system":
            lead = f"<<SYS>>\n{m['content'].strip()}\n<</SYS>>\n\n"
        elif m["role"] == "user":
            out, lead = out + f"{BOS}[INST] {lead}{m['content'].strip()} [/INST]", ""
        else:
            out += f" {m['content'].strip()} {EOS}"
    return out


def gemma(talk, prompt):
    out, lead = BOS, ""
    for m in talk:
        if m["role"] == "system":
            lead = m["content"] + "\n\n"
            continue
        role = "model" if m["role"] == "assistant" else "user"
        out, lead = out + f"<start_of_turn>{role}\n{lead}{m['content'].strip()}<end_of_turn>\n", ""
    return out + ("<start_of_turn>model\n" if prompt else "")


def vicuna(role, content):
    content = content.strip()
    return f"{content} " if role == "system" else f"USER: {content} " if role == "user" else f"ASSISTANT: {content}{EOS}"


def alpaca(role, content):
    content = content.strip()
    return content + "\n\n" if role == "system" else f"### Instruction:\n{content}\n\n" if role == "user" else f"### Response:\n{content}{EOS}\n\n"


def mistral_v7(role, content):
    return f"[SYSTEM_PROMPT] {content}[/SYSTEM_PROMPT]" if role == "system" else f"[INST] {content}[/INST]" if role == "user" else f" {content}{EOS}"


FORMS = {
    "chatml": lambda t, p: turns(t, p, lambda r, c: f"<|im_start|>{r}\n{c}<|im_end|>\n", "<|im_start|>assistant\n"),
    "llama2": llama2,
    "llama3": lambda t, p: turns(t, p, lambda r, c: f"<|start_header_id|>{r}<|end_header_id|>\n\n{c.strip()}<|eot_id|>",
                                 "<|start_header_id|>assistant<|end_header_id|>\n\n", BOS),
    "mistral-v1": lambda t, p: BOS + bracketed(t, lambda c, _: f" [INST] {c} [/INST]", lambda c: f" {c}{EOS}"),
    "mistral-v3": lambda t, p: BOS + bracketed(t, lambda c, _: f"[INST] {c}[/INST]", lambda c: f" {c.strip()}{EOS}"),
    "mistral-v7": lambda t, p: turns(t, p, mistral_v7, "", BOS),
    "zephyr": lambda t, p: turns(t, p, lambda r, c: f"<|{r}|>\n{c}{EOS}\n", "<|assistant|>\n"),
    "vicuna": lambda t, p: turns(t, p, vicuna, "ASSISTANT:", "" if t[0]["role"] == "system" else VICUNA),
    "alpaca": lambda t, p: turns(t, p, alpaca, "### Response:\n", "" if t[0]["role"] == "system" else ALPACA),
    "gemma": gemma,
    "phi3": lambda t, p: turns(t, p, lambda r, c: f"<|{r}|>\n{c}<|end|>\n", "<|assistant|>\n"),
}
TALKS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "user", "content": " Größe?\n"}, {"role": "assistant", "content": " 日本 "}, {"role": "user", "content": "bye"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}, {"role": "user", "content": "three"},
     {"role": "assistant", "content": "four\nlines"}],
]


def known():
    cases = [{"name": name, "messages": talk, "add_generation_prompt": prompt, "text": form(talk, prompt)}
             for name, form in FORMS.items() for talk in TALKS for prompt in (False, True)]
    return {"bos_token": BOS, "eos_token": EOS, "cases": cases}


# ---- a tokenizer ----
MASKED = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}"
          "{{ '\n' }}{% else %}{{ m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}")


def smollm2(folder):
    from transformers import AutoTokenizer
    t = AutoTokenizer.from_pretrained(folder)
    cases = []
    for talk in TALKS:
        masked = t.apply_chat_template(talk, chat_template=MASKED, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        cases.append({"messages": talk, "text": t.apply_chat_template(talk, tokenize=False),
                      "prompt": t.apply_chat_template(talk, tokenize=False, add_generation_prompt=True),
                      "ids": t.apply_chat_template(talk, tokenize=True, return_dict=True)["input_ids"],
                      "masked_ids": masked["input_ids"], "mask": masked["assistant_masks"]})
    return {"masked": MASKED, "cases": cases}


def write(name, value):
    (HERE / name).write_text(json.dumps(value, ensure_ascii=False, indent=0) + "\n")


def main():
    sources = SPACE + ["{{ " + e + " }}" for e in VALUE + CALL + DATE] + STATEMENT
    cases = [case(s) for s in sources]
    write("jinja.json", {"now": NOW, "variables": VARIABLES, "cases": cases})
    write("known.json", known())
    print(len(cases), "pieces,", sum("error" in c for c in cases), "refused")
    if len(sys.argv) > 1:
        write("smollm2.json", smollm2(sys.argv[1]))


if __name__ == "__main__":
    main()
