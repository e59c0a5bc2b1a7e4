"""Makes the tokenizers and the golden ids in this folder with the Python package `tokenizers`.

    python make_golden.py        # writes *.tokenizer.json and golden.json beside itself

Run it again only to add cases: the files are what the Rust tests compare with.
"""
import json
import pathlib
import random

from tokenizers import (AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers,
                        __version__)

HERE = pathlib.Path(__file__).parent
SUBJECTS = "moderators users people bots admins friends strangers they reviewers everyone".split()
VERBS = "report remove ignore quote answer like share flag delete translate".split()
OBJECTS = ("this post", "that awful comment", "a misleading headline", "the photo", "an old thread", "the rules",
           "their neighbours' replies", "spam links", "12 messages", "naïve jokes", "the café's review")
ENDS = (" today.", " again!", ", don't they?", " - unbelievable.", " (see policy 4.2).", " @someone #tag", " 😂", " …")
OTHERS = ["Das ist wirklich nicht zu glauben, oder?", "¿Por qué no lo quitaron ayer?", "Это просто неправда.",
          "彼らは昨日それを削除した。", "我不敢相信他们这么说", "هذا غير صحيح أبدا", "यह सच नहीं है"]

TEXTS = [
    "", " ", "a", "Hello, world!", "hello world", "HELLO", "don't stop", "unbelievable unbelievableness", "  two  spaces ",
    "tab\tnewline\nreturn\r\n", "Café naïve coöperate", "cafe\u0301", "😂 funny", "👩🏽\u200d🚀 \u200b x", "这是一个帖子", "日本語 テキスト",
    "Это просто", "هذا", "यह सच", "[CLS] [SEP] [MASK] [UNK] [PAD]", "<s> </s> <unk>", "a[MASK]b", "x" * 99, "x" * 100, "x" * 101,
    "x" * 300, "http://example.com/a?b=c&d=e#f", "@someone #tag 12345 3.14 1,000", "~`!@#$%^&*()_+-={}[]|\\:;\"'<>,.?/",
    "\x00\x01\x7f\ufffd nul", "a\u00a0b\u3000c\u2028d", "İstanbul ẞtraße ﬁn", "\x0b\x0c\x1c\x1d\x1e\x1f\x85", "AbC dEf", "co-operate re-do",
    "the quick brown fox " * 20, "𝒉𝒆𝒍𝒍𝒐 ｈｅｌｌｏ", "e\u0301\u0302\u0303", "zero\u200dwidth\u200cjoin", "report remove ignore", "##able ##s #able",
]


def corpus(random_source):
    for _ in range(3000):
        pick = random_source.choice
        yield f"{pick(SUBJECTS).capitalize()} {pick(VERBS)} {pick(OBJECTS)}{pick(ENDS)}"
    for _ in range(30):
        yield from OTHERS


def random_text(random_source):
    alphabet = ["a", "e", "s", "t", "the", "post", "un", "able", " ", " ", " ", "\n", ".", ",", "'", "#", "1", "B", "é", "ß", "Ж", "中",
                "😂", "\u200d", "\u0301", "[SEP]", "\x7f", "\t"]
    return "".join(random_source.choice(alphabet) for _ in range(random_source.randrange(40)))


def bert():
    t = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    t.normalizer = normalizers.BertNormalizer()
    t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    t.train_from_iterator(corpus(random.Random(1)), trainers.WordPieceTrainer(vocab_size=420, special_tokens=special))
    t.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t


def bert_cased_cut():
    """Cased, with BertProcessing, truncation, padding, and an added token that is not special."""
    t = bert()
    t.normalizer = normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False)
    t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    t.add_tokens([AddedToken("co-operate", single_word=True), AddedToken("dEf", normalized=False)])
    t.enable_truncation(12)
    t.enable_padding(pad_id=0, length=16)
    return t


def bpe():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    t.train_from_iterator(corpus(random.Random(2)), trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return t


def unigram():
    t = Tokenizer(models.Unigram())
    t.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    t.decoder = decoders.Metaspace()
    t.train_from_iterator(corpus(random.Random(3)), trainers.UnigramTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>"))
    t.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return t


def main():
    source = random.Random(4)
    texts = TEXTS + [random_text(source) for _ in range(60)]
    golden = {"package": f"tokenizers {__version__}", "texts": texts, "tokenizers": {}}
    for make in (bert, bert_cased_cut, bpe, unigram):
        name = make.__name__
        tokenizer = make()
        tokenizer.save(str(HERE / f"{name}.tokenizer.json"), pretty=False)
        tokenizer.no_padding()
        ids = [tokenizer.encode(t).ids for t in texts]
        golden["tokenizers"][name] = {"ids": ids, "decoded": [tokenizer.decode(i) for i in ids]}
    (HERE / "golden.json").write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
