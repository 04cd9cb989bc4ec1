"""Jinja's language, a row each: expressions, statements and drawn white space."""
# SPDX-License-Identifier: Apache-2.0
import random

DATA = {"s": "Hello World", "u": "Stra\u00dfe \u03a3\u0391\u03a3 \u01c6 \u00e9 \u00a0x \u65e5\u672c", "n": 3, "f": 2.5, "l": [3, 1, 2],
        "d": {"a": 1, "b": "x", "items": 5, "c": None}, "e": [], "t": True, "z": None,
        "m": [{"role": "user", "content": "hi", "k": {"x": [1, 2]}}, {"role": "assistant", "content": "yo"}, {"role": "user", "content": " b "}],
        "w": "  a b\n c  ", "big": 1e22, "x": "a'b\"c\\\n\t\x01", "ln": "a\nb\r\nc\x0bd\u2028e\n", "pairs": [[1, 2], [3, 4]]}

# One expression a line.
EXPRESSIONS = r"""
s|upper
u|upper
u|lower
u|capitalize
u|title
s.title()
u.title()
s[0]
s[-1]
s[1:4]
s[::-1]
s[:-1]
u[3:8]
u[::2]
s[10:2:-2]
s[20:]
l[5]
l[-1]
l[::-1]
l[1:]
d.a
d['b']
d['items']
d.nope
d.nope.x
nope
nope.x
nope+'a'
'a'+nope
'a'+1
1+'a'
[1]+'a'
[1]+[2]
(1,)+(2,)
1+2*3
7//2
-7//2
7%3
-7%3
7.5//2
-7.5%2
2**10
2**-1
1/2
4/2
1/0
1//0
1%0
1.0/0
1.0//0
1.0%0
-n
+n
-s
not n
n and s
z or s
n<4<5
n<2<5
1==1.0
True==1
1 in l
9 in l
'a' in d
'lo' in s
1 in s
nope in s
s in nope
1 in z
not 1 in l
1 not in l
s~n~f~z~t
f
1e16
1e15
1.5e-5
0.0001
123456789.123
1e22
1e100
0.1+0.2
100.0
-0.0
big
3.0
1_000
0x1f
0b11
0o17
s if n==3 else z
s if n==4
(s if n==4).x
[s,n,z,t,f]
{'a':s,1:2}
(1,)
(1,2)
()
[]
{}
x
[x]
[u]
['\x00\x7f\u200b\ud7ff']
[\"it's\"]
l|first
e|first
e|last
l|last
s|last
l|sort
l|sort(reverse=true)
l|join
l|join('-')
l|max
l|min
l|sum
m|map(attribute='role')|list
m|map(attribute='k.x')|list
m|map(attribute='k.x.1',default='?')|list
m|map('length')|list
['a','B']|map('upper')|join(',')
m|selectattr('role','equalto','user')|list|length
m|rejectattr('role','equalto','user')|map(attribute='content')|list
m|selectattr('k')|list
m|selectattr('k','defined')|list
l|select('odd')|list
l|reject('gt',1)|list
l|select('in',[1,2])|list
m|selectattr('role','==','user')|first
(m|selectattr('role','eq','user')).x
(l|select)[0]
l|select|length
l|select|first
s|length
z|length
n|length
nope|length
d|length
s|list
nope|list
z|list
d|list
d|items|list
d.items()|list
d.keys()|list
d.values()|list
d.get('a')
d.get('q')
d.get('q',7)
nope|items|list
w|trim
w.strip()
w.lstrip()
w.rstrip()
s.strip('Hd')
s|trim('Hd')
s.split()
w.split()
s.split('o')
s.split('o',1)
s.rsplit('o',1)
w.split(none,1)
w.rsplit(none,1)
s.split('')
ln.splitlines()
ln.splitlines(true)
s.partition('o')
s.rpartition('o')
s.partition('q')
s.rpartition('q')
s.startswith('He')
s.startswith(('x','H'))
s.endswith('ld')
s.startswith(1)
s.replace('o','0')
s.replace('o','0',1)
s|replace('o','0')
s|replace('o','0',1)
s.replace('','-')
s|replace('','-',2)
s.find('o')
s.rfind('o')
s.find('o',5)
s.find('q')
s.index('q')
s.count('o')
u.find('é')
s.count('')
s.upper()
s.lower()
u.upper()
u.lower()
s.isupper()
s.islower()
'ab'.isalpha()
'a1'.isalnum()
'12'.isdigit()
' '.isspace()
''.isspace()
s.capitalize()
s.ljust(13,'.')
s.rjust(13,'.')
s.center(14,'.')
s.center(15,'.')
s|center(15)
'-5'.zfill(4)
s.removeprefix('He')
s.removesuffix('ld')
','.join(['a','b'])
','.join([1])
','.join(1)
s.nope
s.nope()
s()
n()
n.x
l.x
l.append(1)
d.update({})
s.__class__
s.__class__.x
l['x']
l['x'].y
z.x
z.x.y
z['x'].y
z[0]
z[0].x
d[0].x
d[l]
l[1:2:0]
l['a':]
z[1:]
d[1:]
d|tojson
m|tojson
m|tojson(indent=2)
e|tojson(indent=4)
{}|tojson(indent=4)
x|tojson
u|tojson
u|tojson(ensure_ascii=true)
{'b':1,'a':{'d':[],'c':[1]}}|tojson(sort_keys=true,indent=1)
d|tojson(separators=(',',':'))
{1:2,none:3,true:4,1.5:5}|tojson
'<>&\''|tojson
f|tojson
1e22|tojson
nope|tojson
(l|select)|tojson
(1,2)|tojson
{(1,2):3}|tojson
d.items()|tojson
'\x7f\u2028😀'|tojson
'😀'|tojson(ensure_ascii=true)
nope is defined
s is defined
z is none
z is defined
s is string
d is mapping
l is sequence
d is sequence
nope is sequence
nope is iterable
n is iterable
s is iterable
n is number
t is number
t is integer
t is boolean
f is float
n is integer
n is odd
n is even
n is divisibleby 3
n is divisibleby(2)
n is eq 3
n is gt 2
n is in l
s is in [s]
n is sameas 3
t is true
t is false
t is sameas true
1 is true
s is upper
'A' is upper
z is not none
nope is not defined
d.q is defined
d.q.r is defined
(l|select) is iterable
(l|select) is sequence
range is callable
s is callable
'upper' is filter
'odd' is test
nope is undefined
s is equalto s
nope|default('q')
z|default('q')
z|default('q',true)
''|d('q',boolean=true)
nope|default
s|default('x')
range(3)|list
range(1,7,2)|list
range(5,0,-2)|list
range(3)[1]
range(3)|length
range(200000)
dict(a=1,b=2)
dict([('a',1)])
namespace(a=1).a
namespace(a=1)
namespace().b
namespace().b.c
'5'|int
'5.7'|int
'x'|int
'x'|int(9)
5.9|int
' 7 '|int
'0x1f'|int(0,16)
z|int
'2.5'|float
'x'|float
'1e3'|float
n|float
2.5|round
3.5|round
2.675|round(2)
n|round
2.1|round(0,'ceil')
2.9|round(method='floor')
-n|abs
(-2.5)|abs
'a\nb\n\nc'|indent
'a\nb\n'|indent(2,true)
'a\n\nb'|indent('> ',blank=true)
''|indent
s|wordcount
'%s-%d'|format(s,n)
'%s' % s
'%s %s' % (s,n)
'%d%%' % n
'%s %s' % s
'{} {}'.format(s,n)
'{1}{0}'.format(s,n)
'{a}'.format(a=s)
'{{}}'.format()
l|batch(2)|list
l|batch(2,'x')|list
['b','A','a']|sort
['b','A','a']|sort(case_sensitive=true)
['b','A','B']|unique|list
m|sort(attribute='content')|map(attribute='content')|list
d|dictsort
{'b':1,'A':2}|dictsort
{'b':1,'A':2}|dictsort(by='value',reverse=true)
l|reverse|list
s|reverse
(l|reverse)|join
[1,'a']|sort
[none,none]|sort
[none,1]|sort
[{'a':1},{'a':1}]|sort
[{'a':1},{'a':2}]|sort
['b','a']|sort(attribute='type')
[{'type':'b'},{}]|sort(attribute='type')
[{'type':'b','n':1},{'type':'A','n':2},{'type':'B','n':3}]|sort(attribute='type')|map(attribute='n')|list
[{'type':none,'n':1},{'type':none,'n':2}]|sort(attribute='type',reverse=true)|map(attribute='n')|list
[none,none]|min
[undefined_name,undefined_name]|sort|length
[[2,'x'],[1,none],[1,none]]|sort
l<[3,2]
'a'<'b'
'a'<1
z<1
nope<1
1<nope
[1]<(1,)
s|nofilter
s is notest
1 if false else 2 if false else 3
n|string~'x'
[1,2]|string
d|string
-1|abs
-n|string
m[0].k.x[1]
m.0.role
m[-1].content|trim
m[0]['k']['x'][0]
'a' 'b' 'c'
'a\x41\u00e9\n\101\q'
"tab\t\"q\""
1.5.x
l|map(attribute='x')|list
m|map('attr','role')|list
l.index(1)
l.index(9)
l.count(1)
d.copy()
s*2
2*s
l*2
s*'a'
s*-1
f*s
[1,2]==[1,2]
(1,2)==[1,2]
{'a':1}=={'a':1.0}
nope==nope2
nope!=1
nope==none
s==1
m|join(',',attribute='role')
m|sum(attribute='x')
[1,2.5]|sum
['a']|sum
l|sum(start=10)
d|sum
d|max
e|max
m|max(attribute='content')
m|min(attribute='nope')
loop
varargs
caller
true|string
true+1
true~''
not nope
nope or 'x'
nope and 'x'
9223372036854775807
'a' if z is none and n==3 else 'b'
n==3 and not z
s|upper|lower|title|length
(s|upper).lower()
[n,n+1][n-3]
{'k':{'q':1}}.k.q
{'k':1}|length
{'a':1,'a':2}
'%' ~ s
(1,2,3)[1:]
(1)|tojson
('a',)|tojson
'a,b'.split(',')[1]|upper
z|map('nofilter')|list
z|selectattr('a')|list
0|map('x')|list
s|safe + '<&>'
'<&>' + s|safe
'<a>'|safe ~ '<b>'
('<a>'|safe + '<b>') + "'\""
'<a>'|e|e
('<'|e)|string + '<'
d|tojson|safe
'<b>'|safe|length
"""

# One template a line.
STATEMENTS = r"""
{% for x in l %}{{ x }}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{{ loop.revindex0 }}{{loop.depth}}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a','b') }}{{ loop.changed(x//2) }},{% endfor %}
{% for x in e %}a{% else %}b{% endfor %}{% for x in nope %}a{% else %}b{% endfor %}
{% for x in l if x != 2 %}{{ loop.index }}{{ x }}{% else %}none{% endfor %}{% for x in l if x > 9 %}{{ x }}{% else %}none{% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in s %}{{ c }}-{% endfor %}
{% for a, b in pairs %}{{ a }}{{ b }}{% endfor %}{% for a, b in l %}{% endfor %}
{% for (a, b), c in [[[1,2],3]] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [[1]] %}{% endfor %}
{% for a, b in [[1,2,3]] %}{% endfor %}
{% for a in z %}{% endfor %}
{% for a in 5 %}{% endfor %}
{% for x in l %}{% if x == 2 %}{% break %}{% endif %}{{ x }}{% endfor %}|{% for x in l %}{% if x == 2 %}{% continue %}{% endif %}{{ x }}{% endfor %}
{% set a = 1 %}{% for x in l %}{% set a = a + x %}{{ a }},{% endfor %}{{ a }}
{% set ns = namespace(a=1) %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}{% set ns.b = 's' %}{{ ns.b }}{{ ns['a'] }}{{ ns }}
{% set q.a = 1 %}
{% set d.a = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e) = [3, 4] %}{{ c }}{{ e }}{% set t = 1, 2 %}{{ t }}{% set t = 1, %}{{ t }}
{% set x %}block {{ s }}{% set y = 1 %}{% endset %}[{{ x }}]{{ y }}{% set x | upper | replace('B','c') %} abc {% endset %}[{{ x }}]
{% macro f(a, b=2, c=a) %}<{{ a }},{{ b }},{{ c }}>{% endmacro %}{{ f(1) }}{{ f(1, 3) }}{{ f(c=4, a=5) }}{{ f() }}{{ f(1)|length }}
{% macro f(a) %}{{ a.x }}{% endmacro %}{{ f() }}
{% macro f(a) %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1,2,3,k=4) }}{{ f() }}
{% macro f(a) %}{% endmacro %}{{ f(1,2) }}
{% macro f(a) %}{% endmacro %}{{ f(q=2) }}
{% macro f(a) %}{% endmacro %}{{ f(1, a=2) }}
{% macro f(n) %}{{ n }}{% if n %}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro f() %}[{{ caller() }}]{% endmacro %}{% call f() %}inner {{ s }}{% endcall %}
{% macro f() %}[{{ caller(1, 2) }}]{% endmacro %}{% call(a, b) f() %}{{ a }}{{ b }}{% endcall %}
{% macro f() %}{{ g }}{% endmacro %}{% set g = 1 %}{{ f() }}{% set g = 2 %}{{ f() }}
{% macro f() %}{% set g = 5 %}{{ g }}{% endmacro %}{% set g = 1 %}{{ f() }}{{ g }}
{% filter upper %}abc {{ s }}{% endfilter %}{% with a = 1, b = s %}{{ a }}{{ b }}{% set c = 2 %}{% endwith %}{{ a }}{{ c }}
{% with a = 1, b = a %}{{ b }}{% endwith %}
{% if nope %}1{% elif s %}2{% else %}3{% endif %}{% if z %}1{% elif z %}2{% else %}3{% endif %}{% if not z %}{% set w = 1 %}{% endif %}{{ w }}
{% raw %}{{ x }}{% if %}{% endraw %}{%- raw -%}  a {{ {%- endraw -%}  b
{% generation %}a{{ s }}{% set v = 1 %}{% endgeneration %}{{ v }}
{% print s %}{% print 1, 2 %}{{ 1, 2 }}{{ {'a': {'b': 1}} }}
{{ raise_exception('no ' ~ s) }}
{{ raise_exception('') }}
{{ raise_exception(5) }}
{% if false %}{{ s|nofilter }}{% endif %}ok
{% if true %}{{ s|nofilter }}{% endif %}ok
{% if %}{% endif %}
{% for %}{% endfor %}
{% endif %}
{% if s %}
{% foo %}
{{ s
{{ 'abc }}
{{ s }
{# x
{% raw %}x
{{ }}
{{ a b }}
{{ (1 }}
{{ 1) }}
{{ [1} }}
{{ $ }}
{{ 'a' is string is string }}
{% set loop = 1 %}{{ loop }}
{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}
{% for x in l %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ loop.index }}{% endfor %}{% endfor %}
{% for x in l %}{{ loop }}{% endfor %}{% for x in l %}{{ loop.foo.x }}{% endfor %}
{{ m|map(attribute='role')|join }}{% for r, g in [('u', m)] %}{{ r }}{{ g|length }}{% endfor %}
{% set x = m|selectattr('role','eq','u') %}{{ x|list|length }}{{ x|list|length }}{% if x %}yes{% endif %}
{% break %}
{% for x in l %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}
{% for x in l %}{% generation %}{% break %}{% endgeneration %}{% endfor %}
{% set x = 1 %}{% if true %}{% set x = x + 1 %}{% endif %}{{ x }}{% for i in l %}{% if i == 2 %}{% set x = 9 %}{% endif %}{{ x }}{% endfor %}{{ x }}
{% for i in l %}{{ y is defined }}{% set y = i %}{{ y }}{% endfor %}
{%- set a -%} x {%- endset -%} {{ a }} {#- c -#} y {{- 's' -}} z
{% set messages = m %}{% for message in messages %}{% set messages = [] %}{{ message.role }}{{ messages }}{% endfor %}{{ messages|length }}
{{ 1 if true }}{{ 1 if false }}{{ [1 if false] }}{{ (1,) + (2,) }}{{ not true == false }}{{ 2 ** 3 ** 2 }}{{ -2 ** 2 }}{{ 1 ~ 2 + 3 }}{{ 1 + 2 ~ 3 }}
{{ m[0]["role"] == "u" and m[1].c|int > 1 }}{{ "a" in ["a"] and "b" not in "abc" or 1 }}{{ l | length != 0 }}{{ l|length - 1 }}
{{ [1,2,] }}{{ {'a':1,} }}{{ (1,2,) }}{{ dict(a=1,) }}{{ s[0:1] }}{{ s[:] }}{{ l[:-1] }}{{ l[1:][0] }}
"""

OPEN, CLOSE = ["{%- ", "{% ", "{%+ "], [" %}", " -%}", " +%}", "%}"]
BITS = [" ", "\n", "  ", "\t", "a", "b\n", "\n\n", "\r\n", "\r", "x ", "\u00a0", "\u00e9", "\\n", "{", "}", "%", "#"]


def drawn(r, depth=0):
    """Text with tags in it, every kind of white space control."""
    out = ""
    tag = lambda name: r.choice(OPEN) + name + r.choice(CLOSE)
    for _ in range(r.randint(1, 6)):
        kind = r.random()
        if kind < .5: out += "".join(r.choice(BITS) for _ in range(r.randint(1, 4)))
        elif kind < .6: out += r.choice(["{{ ", "{{- ", "{{-"]) + r.choice(["s", "1", "'}}'", "{'a':{}}", "l[0]"]) + r.choice([" }}", " -}}", "-}}"])
        elif kind < .7: out += r.choice(["{# ", "{#- ", "{#+ ", "{#", "{#-"]) + r.choice(["c", "", "{{ x }}", "-", "a\n"]) + r.choice([" #}", " -#}", " +#}", "#}"])
        elif kind < .75: out += r.choice(OPEN) + "raw" + r.choice([" %}", " -%}", "%}"]) + r.choice([" {{ x ", "\n", "  \n  ", "a"]) + tag("endraw")
        elif kind < .85 and depth < 3: out += tag("if s") + drawn(r, depth + 1) + tag("endif")
        elif kind < .93 and depth < 3: out += tag("for x in l") + drawn(r, depth + 1) + tag("endfor")
        else: out += tag("set q = 1")
    return out


def templates():
    r = random.Random(11)
    yield from ("{{ " + e + " }}" for e in EXPRESSIONS.split("\n") if e)
    yield from (t for t in STATEMENTS.split("\n") if t)
    yield from (drawn(r) for _ in range(400))
    yield from ("", "\n", "a\n", "a\n\n", "{{ strftime_now('%d %b %Y %H:%M:%S.%f %%') }}", "{{ strftime_now('') }}|",
                "{{ strftime_now('%A, %B %e %-d %y %m %I:%p %a %b %j %U %w %W %u %V %G %C %h %D %F %T %R %n%t|%z|%Z|%%z') }}",
                "{{ strftime_now('%Z') }}|{{ strftime_now('%c %x %X') }}|{{ strftime_now('é 日 %Y') }}")
