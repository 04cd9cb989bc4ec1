"""Mixed texts for tokenizer vectors: written for this project, then mixed by a seeded generator."""
# SPDX-License-Identifier: Apache-2.0
import random

SENTENCES = [
    "The harbour was quiet, and nobody had asked for the lamp to be lit.",
    "I'd say we've got 3 options; they're cheap, aren't they? It'll do. I'm sure he'd agree.",
    "Please refund order #48213-B (placed 2024-02-29) to the card ending in 0042.",
    "Der Fluß trat über die Ufer, während wir Äpfel für das Frühstück schälten.",
    "Le garçon naïf a reçu l'œuvre à Noël ; ça ne l'a guère étonné, n'est-ce pas ?",
    "El pingüino cruzó la calle; ¿quién lo habría creído? ¡Nadie, señor!",
    "A avó põe pão e maçãs na mesa, às três da manhã.",
    "Perché la città è così silenziosa? Perché piove già da venerdì.",
    "Zażółć gęślą jaźń, powiedział żółw do źrebaka.",
    "Příliš žluťoučký kůň pěl ďábelské ódy na mezi.",
    "Árvíztűrő tükörfúrógép állt a műhely sarkában.",
    "Işıklar söndü; ığdır'da öğleden sonra yağmur çiseliyordu.",
    "Дождь шёл всю ночь, и утром ёжик увидел, что река поднялась.",
    "Їжак з'їв ґудзик, а білка сховала горіхи під ялинкою.",
    "Η θάλασσα ήταν ήρεμη και το φως έπεφτε λοξά στα βράχια.",
    "הילד קרא ספר בצל העץ, ולא שם לב לגשם.",
    "كانت السماء صافية، وجلس الجميع حول المائدة يشربون الشاي.",
    "باران که بند آمد، بچه‌ها به کوچه رفتند.",
    "बारिश के बाद आँगन में मिट्टी की महक फैल गई।",
    "বৃষ্টির পরে নদীর ধারে ঠান্ডা হাওয়া বইছিল।",
    "மழை நின்றதும் குழந்தைகள் வெளியே ஓடினர்.",
    "ฝนหยุดแล้ว เด็ก ๆ ออกไปเล่นที่สนามหญ้า",
    "Mưa tạnh, bọn trẻ ùa ra sân chơi đá bóng.",
    "雨停了，孩子们跑到院子里放风筝。",
    "雨停了，孩子們跑到院子裡放風箏。",
    "雨がやんで、子どもたちは庭へ走り出した。カタカナもﾊﾝｶｸも。",
    "비가 그치자 아이들이 마당으로 뛰어나갔다.",
    "წვიმის შემდეგ ბავშვები ეზოში გავიდნენ.",
    "Անձրևից հետո երեխաները դուրս եկան բակ։",
    "ዝናቡ ካቆመ በኋላ ልጆቹ ወደ ውጭ ወጡ።",
    "ฝ มิถุนายน ๒๕๖๗ / ١٢٣٤٥ / १२३ / ৪৫৬ / ①②③ ½ Ⅷ ²³",
    "ᚠᚢᚦᚨᚱᚲ ᏣᎳᎩ ꓡꓲꓢꓴ 𐍈𐌰𐌹 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𒀀𒁀 𠮷野家",
]
CODE = [
    "int main(void) {\n    for (int i = 0; i < 10; ++i)\n\t\tprintf(\"%d\\n\", i);\n    return 0;\n}\n",
    "def area(r: float) -> float:\n    \"\"\"Of a circle.\"\"\"\n    return 3.14159 * r ** 2  # approx\n",
    "SELECT id, COUNT(*) FROM t WHERE a >= 10 AND b <> 'x' GROUP BY 1 ORDER BY 2 DESC;",
    "{\"key\": [1, 2.5e-3, null, true], \"nested\": {\"a\\\"b\": \"\\u00e9\"}}",
    "<div class=\"row\"><a href='https://example.org/?q=1&r=%20x#top'>go</a></div>",
    "fn main() -> Result<(), Box<dyn Error>> { let x = &mut v[..n]; x?; Ok(()) }",
    "$ ls -la | grep '^d' && echo \"done: $?\" >> /tmp/log 2>&1",
    "x := map[string]int{\"a\": 1}\n\n\n// TODO(me): fix\r\n\treturn x, nil\r\n",
    "\\begin{align} a^2 + b^2 &= c^2 \\\\ \\int_0^\\infty e^{-x} dx &= 1 \\end{align}",
    "0x1F + 0b1010 - 1_000_000 * 6.022e23 / -17 % 5 == 3 != 4 <<= 2",
    "- [ ] item one\n- [x] item two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    "CamelCaseIdentifier snake_case_identifier kebab-case SCREAMING_SNAKE __init__ a.b.c->d::e",
]
MARKS = [
    "😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇯🇵", "❤️", "☕", "e\u0301", "a\u0308\u0301\u0323", "Z\u0351\u036b\u0343\u0363", "ﬁ", "ſ",
    "K", "Å", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u2028", "\u2029", "\u3000", "\u1680", "\u180e", "\u0085",
    "\u00ad", "\u202e", "\ufffd", "\uffff", "\U0001f9ff", "\U000e0041", "\U0010ffff", "\U00040000", "\U000f0000",
    "\u1e9e", "\ud7a3", "각", "\u0e33", "\ua9cf", "\U00011f55", "\U000105c5", "\U000323af", "\U0001e4f3", "\U00016ff5",
]
CONTROLS = [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9f"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\n\n", " \n", "\n ", "\t\t ", "\r", "\v", "\f", "\u00a0", "\u3000", "        "]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<reponame>", "<file_sep>", "<empty_output>"]
ALMOST = ["<|im_start", "|>", "<|im_end|", "<|", "<|im_st<|im_end|>art|>", "<<|im_end|>>", "< |im_end|>", "<jupyter_", "<repo_name"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'LL", "'ſ", "’s", "''s", "'"]


def _digits(r):
    return "".join(r.choice("0123456789") for _ in range(r.choice([1, 2, 3, 4, 5, 7, 12, 40])))


def _spaces(r):
    return "".join(r.choice(SPACES) for _ in range(r.randint(1, 6)))


def _random_points(r):
    def point():
        while True:
            c = r.choice([r.randrange(0x80, 0x800), r.randrange(0x800, 0x10000), r.randrange(0x10000, 0x110000)])
            if not 0xD800 <= c <= 0xDFFF:
                return chr(c)
    return "".join(point() for _ in range(r.randint(1, 12)))


def _part(r):
    kind = r.randrange(14)
    if kind <= 3:
        s = r.choice(SENTENCES)
        a = r.randrange(len(s))
        return s[a:a + r.randint(4, 60)]
    if kind == 4:
        s = r.choice(CODE)
        a = r.randrange(len(s))
        return s[a:a + r.randint(4, 60)]
    return [lambda: r.choice(MARKS) * r.randint(1, 3), lambda: _spaces(r), lambda: _digits(r),
            lambda: "".join(r.choice(CONTROLS) for _ in range(r.randint(1, 4))), lambda: _random_points(r),
            lambda: r.choice(SPECIALS), lambda: r.choice(ALMOST), lambda: r.choice("abcXYZ") + r.choice(CONTRACTIONS),
            lambda: r.choice("-=*_#.!?~^|/\\$%&@+<>{}[]()\"'`,;:") * r.randint(1, 40)][kind - 5]()


def texts(count, seed=20240607):
    """`count` distinct texts, the plain ones first."""
    r = random.Random(seed)
    out = ["", " ", "  ", "\n", "a", "'s", " 's", "<|im_end|>"] + SENTENCES + CODE + MARKS + CONTROLS + SPACES + SPECIALS + ALMOST
    out += [a + " " + b for a, b in zip(SENTENCES, SENTENCES[1:])] + ["x" + c + "y" for c in CONTRACTIONS]
    out = list(dict.fromkeys(out))
    seen = set(out)
    while len(out) < count:
        text = "".join(_part(r) for _ in range(r.randint(1, 5)))
        if text not in seen:
            seen.add(text)
            out.append(text)
    return out[:count]


# Texts too long to keep: a unit and how often it is repeated.
REPEATS = [("a", 1000000), (" ", 1000000), ("\n", 300000), ("0123456789", 50000), ("漢字仮名交じり文", 40000),
           ("ab", 250000), ("!", 300000), ("e\u0301", 200000), ("\u0301\u0323", 100000), ("<|im_end|>", 20000),
           ("<|im_start", 30000), (" x", 200000), ("a ", 200000), ("\t \n", 100000), ("the quick brown fox ", 20000),
           ("👩‍👩‍👧‍👦", 10000), ("-=", 200000), ("aA1 ", 100000)]
