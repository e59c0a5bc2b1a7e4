"""Makes a tiny random model of every family, with a tokenizer of its own, and what transformers gives for it."""

import json
import os
import sys

import torch
import transformers as t
from sentence_transformers import SentenceTransformer, models
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, Unigram, WordPiece

SEED = 20261124
WORDS = "report remove appeal harass spam policy vote label image post 标签 文章 投票 политика оставить прекрасно".split()
TEXTS = [
    "", "a", "Report this post, please!", "  spaces \t and\nlines ", "标签文章 投票", "политика: оставить?",
    "don't 👍🏽 👩‍👩‍👧 é e\u0301 \u200b", "<pad> [PAD] <s> </s>", " ".join(WORDS * 3), "UPPER lower MiXeD 1234567890 3.14",
    " ".join(f"{w}{i}" for i in range(40) for w in WORDS[:4]),
]
CORPUS = [" ".join(WORDS[i % len(WORDS):] + WORDS[:i % 7]) for i in range(200)] + TEXTS[1:]


def wordpiece():
    tok = Tokenizer(WordPiece(unk_token="[UNK]"))
    tok.normalizer = normalizers.BertNormalizer(lowercase=True)
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tok.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special))
    tok.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return t.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")


def byte_level():
    tok = Tokenizer(BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return t.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", cls_token="<s>", sep_token="</s>")


def unigram():
    tok = Tokenizer(Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tok.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=300, special_tokens=special, unk_token="<unk>"))
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    return t.PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", cls_token="<s>", sep_token="</s>")


SHAPE = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=3, intermediate_size=72)
LABELS = dict(id2label={0: "fine", 1: "toxic", 2: "spam"}, label2id={"fine": 0, "toxic": 1, "spam": 2})
MODERN = dict(num_hidden_layers=5, local_attention=8, max_position_embeddings=200, pad_token_id=1, bos_token_id=0,
              eos_token_id=2, cls_token_id=0, sep_token_id=2)
MULTI = dict(problem_type="multi_label_classification")

# name: (classifier or not, class, tokenizer, configuration)
MODELS = {
    "bert": (t.BertModel, wordpiece, t.BertConfig(**SHAPE, max_position_embeddings=128)),
    "bert_tanh": (t.BertModel, wordpiece, t.BertConfig(**SHAPE, hidden_act="gelu_new", max_position_embeddings=64)),
    "roberta": (t.RobertaModel, byte_level,
                t.RobertaConfig(**SHAPE, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1)),
    "xlm_roberta": (t.XLMRobertaModel, unigram,
                    t.XLMRobertaConfig(**SHAPE, max_position_embeddings=130, type_vocab_size=1, pad_token_id=1)),
    "distilbert": (t.DistilBertModel, wordpiece,
                   t.DistilBertConfig(dim=48, n_layers=2, n_heads=4, hidden_dim=100, max_position_embeddings=128)),
    "modernbert": (t.ModernBertModel, byte_level, t.ModernBertConfig(**{**SHAPE, **MODERN})),
    "bert_labels": (t.BertForSequenceClassification, wordpiece,
                    t.BertConfig(**SHAPE, **LABELS, max_position_embeddings=128)),
    "bert_multi": (t.BertForSequenceClassification, wordpiece,
                   t.BertConfig(**SHAPE, **LABELS, **MULTI, max_position_embeddings=128)),
    "xlm_roberta_labels": (t.XLMRobertaForSequenceClassification, unigram,
                           t.XLMRobertaConfig(**SHAPE, **LABELS, max_position_embeddings=130, type_vocab_size=1)),
    "distilbert_labels": (t.DistilBertForSequenceClassification, wordpiece,
                          t.DistilBertConfig(dim=48, n_layers=2, n_heads=4, hidden_dim=100, **LABELS)),
    "modernbert_labels": (t.ModernBertForSequenceClassification, byte_level,
                          t.ModernBertConfig(**{**SHAPE, **MODERN}, **LABELS, classifier_pooling="mean")),
}


def randomise(model):
    """Weights large enough that every part of the model shows in its result."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        for name, value in model.named_parameters():
            norm = "norm" in name.lower() and name.endswith("weight")
            value.copy_(torch.randn_like(value) * 0.2 + (1.0 if norm else 0.0))


def tokens_max(config):
    most = getattr(config, "max_position_embeddings")
    return most - 2 if "roberta" in config.model_type else most


def reference(name, kind, tokenizer, config, folder):
    tok = tokenizer()
    config.vocab_size = len(tok)
    tok.model_max_length = tokens_max(config)
    model = kind(config).eval()
    randomise(model)
    path = os.path.join(folder, name)
    model.save_pretrained(path)
    tok.save_pretrained(path)
    expected = {"mean": [], "cls": [], "max": [], "labels": []}
    for text in TEXTS:
        batch = tok(text, return_tensors="pt", truncation=True)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            out = model(**batch)
        if "labels" in name or "multi" in name:
            logits = out.logits[0]
            multi = config.problem_type == "multi_label_classification"
            expected["labels"].append((logits.sigmoid() if multi else logits.softmax(-1)).tolist())
        else:
            state = out.last_hidden_state[0]
            for pooling, value in (("mean", state.mean(0)), ("cls", state[0]), ("max", state.max(0).values)):
                expected[pooling].append(value.tolist())
    with open(os.path.join(path, "expected.json"), "w") as out:
        json.dump(expected, out)


def modules(folder):
    """A sentence-transformers model with every pooling side by side, a dense module, and unit length."""
    word = models.Transformer(os.path.join(folder, "bert"), max_seq_length=32)
    width = 48
    pooling = models.Pooling(width, pooling_mode=("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"))
    dense = models.Dense(in_features=6 * width, out_features=20)
    torch.manual_seed(SEED)
    torch.nn.init.normal_(dense.linear.weight, std=0.1)
    model = SentenceTransformer(modules=[word, pooling, dense, models.Normalize()], device="cpu")
    path = os.path.join(folder, "modules")
    model.save(path)
    rows = [model.encode(text).tolist() for text in TEXTS]
    with open(os.path.join(path, "expected.json"), "w") as out:
        json.dump({"modules": rows}, out)


folder = sys.argv[1]
for name, (kind, tokenizer, config) in MODELS.items():
    reference(name, kind, tokenizer, config, folder)
modules(folder)
with open(os.path.join(folder, "texts.json"), "w") as out:
    json.dump(TEXTS, out)
