#!/usr/bin/env python3
"""Makes tests/vectors/minilm_embeddings.npz: what sentence-transformers gives for texts of many kinds
with all-MiniLM-L6-v2, among them texts beyond its max_seq_length (256 tokens). tests/e2e/test_embed.py
reads it.

  texts       JSON, a list of strings
  embeddings  float16 [texts, 384]; the rounding costs a cosine less than 1e-6
  tokens      how many tokens each text has without a limit

Needs sentence-transformers 5.1, transformers 4.57, numpy:
  python make_minilm_vectors.py MODEL_FOLDER        (scripts/lib.sh, fetch_encoder, brings the folder)
"""
# SPDX-License-Identifier: Apache-2.0
import json
import pathlib
import sys

import numpy as np
from sentence_transformers import SentenceTransformer

from tokenizer_texts import CODE, SENTENCES, texts

HERE = pathlib.Path(__file__).parent
QUESTIONS = ["how do I reset my password", "What is the capital of France?", "refund status",
             "The cat sat on the mat.", "A cat was sitting on a rug.", "hello", "a", ".", " "]


def choose():
    prose = (HERE / "texts.txt").read_text()
    paragraphs = [part for part in prose.split("\n\n") if part.strip()]
    some = QUESTIONS + SENTENCES + CODE + paragraphs + [prose[:3000], prose] + texts(420, seed=384)[270:]
    return [text for text in some if "\0" not in text and not any(0xd800 <= ord(c) < 0xe000 for c in text)]


def main():
    model = SentenceTransformer(sys.argv[1], device="cpu")
    chosen = choose()
    embeddings = model.encode(chosen, batch_size=1, normalize_embeddings=False)
    tokens = [len(model.tokenizer(text, truncation=False, verbose=False).input_ids) for text in chosen]
    print(len(chosen), "texts,", sum(count > 256 for count in tokens), "over 256 tokens,",
          max(tokens), "at most")
    np.savez_compressed(HERE / "minilm_embeddings.npz", texts=np.bytes_(json.dumps(chosen)),
                        embeddings=embeddings.astype(np.float16), tokens=np.array(tokens))


if __name__ == "__main__":
    main()
