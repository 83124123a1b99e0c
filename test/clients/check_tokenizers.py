"""Hugging Face's tokenizers on the file that we write, llama.cpp on the GGUF: ids of a megabyte each of prose, source code and mixed scripts."""
import glob
import os
import random

from llama_cpp import Llama
from tokenizers import Tokenizer

import ours
from report import Skip

MEGABYTE = 1 << 20

SCRIPTS = [  # first and last code point of letters, and what stands between words
    (0x41, 0x7A, " "), (0xC0, 0x17F, " "), (0x391, 0x3C9, " "), (0x410, 0x44F, " "), (0x531, 0x586, " "), (0x5D0, 0x5EA, " "), (0x621, 0x64A, " "),
    (0x905, 0x939, " "), (0x985, 0x9B9, " "), (0xE01, 0xE3A, ""), (0x10D0, 0x10FF, " "), (0x1780, 0x17B3, ""), (0x3041, 0x30FE, ""),
    (0x4E00, 0x9FA5, ""), (0xAC00, 0xD7A3, " "), (0x1F300, 0x1F5FF, ""), (0x30, 0x39, " "), (0x660, 0x669, " "),
]
BETWEEN = ["\n", "\n\n", "\t", "  ", "   ", "\r\n", "\u00a0", "\u3000", "\u200d", "...", "!?", "'s", "'LL", "—", "_", "@", "\ufeff", "e\u0301", "<|", "/>", "ﬁ"]


def mixed_scripts(size):
    """Words of random letters of many scripts, with what tokenizers stumble over between them.  The same text every time."""
    draw, parts, n = random.Random(1), [], 0
    while n < size:
        first, last, space = draw.choice(SCRIPTS)
        word = "".join(chr(draw.randint(first, last)) for _ in range(draw.randint(1, 9)))
        parts.append(word + (space if draw.random() < 0.8 else draw.choice(BETWEEN)))
        n += len(parts[-1].encode())
    return "".join(parts)


def source_code(size):
    text = "".join(open(p, encoding="utf-8").read() for p in sorted(glob.glob("**/*.[ch]", recursive=True)))
    return text[:size]


def prose(options, size):
    path = os.path.join(options.data, "lm/wiki.test.raw")
    if not os.path.exists(path):
        raise Skip("%s is not there" % path)
    with open(path, encoding="utf-8", newline="") as f:
        return f.read(size)


def of_folder(subject):
    """The file that we wrote: text to ids."""
    tokenizer = Tokenizer.from_file(subject.folder() + "/tokenizer.json")
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def of_gguf(subject):
    """llama.cpp's reading of the GGUF, which owes nothing to us.  (transformers 5.24 makes a tokenizer of a GGUF that does not cut digits as `smollm` says.)"""
    llama = Llama(subject.model, vocab_only=True, verbose=False)
    return lambda text: llama.tokenize(text.encode(), add_bos=False, special=True)


def compare(subject, make_tokenizer, make_text, *arguments):
    text = make_text(*arguments)
    theirs, mine = make_tokenizer(subject)(text), ours.ids(subject.model, text)
    if theirs == mine:
        return True, "%d characters, %d ids" % (len(text), len(mine))
    at = next((i for i, (a, b) in enumerate(zip(theirs, mine)) if a != b), min(len(theirs), len(mine)))
    return False, "id %d: theirs %s, ours %s" % (at, theirs[at:at + 4], mine[at:at + 4])


def checks(subject, report):
    if subject.pruned:  # the same vocabulary again
        return
    makers = [("tokenizer.json", of_folder)]
    if subject.model.endswith(".gguf"):
        makers.append(("llama.cpp's reading of the GGUF", of_gguf))
    for kind, make_tokenizer in makers:
        for name, make_text, arguments in (("prose", prose, (subject.options, MEGABYTE)), ("source code", source_code, (MEGABYTE,)),
                                           ("mixed scripts", mixed_scripts, (MEGABYTE,))):
            report.check("tokenizers: %s, %s, %s" % (subject.name, kind, name), compare, subject, make_tokenizer, make_text, *arguments)
