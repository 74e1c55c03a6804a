"""The tokenizer: trained on a data set's texts, or a checkpoint's own."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kgfast.core.files import read_plain, write_whole
from kgfast.errors import CheckpointError, ConfigError, DataError
from kgfast.joint.needs import needs

KINDS = ("wordpiece", "bpe")
MOST_BYTES = 2**28  # of each file of a tokenizer
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# The names under which tokenizers know each role, most telling first.
ROLES = {
    "pad": ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>"),
    "unknown": ("[UNK]", "<unk>"),
    "begin": ("[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"),
    "end": ("[SEP]", "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
}


class Tokenizer:
    """Texts to token ids and back; ids of the special tokens (`pad begin end mask unknown`; None where there is none).

    begin and end enclose every text ([CLS] text [SEP]); one of them is enough. tokenizer: a `tokenizers.Tokenizer`.
    A text that spells a special token ("[MASK]", "<s>") is text: `encode` gives none of their ids but the unknown one.
    """

    def __init__(self, tokenizer, roles: dict[str, str] | None = None):
        self.tokenizer = tokenizer
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.vocabulary = tokenizer.get_vocab_size(with_added_tokens=True)
        self.tokenizer.encode_special_tokens = True  # what a text spells is text
        given = dict(roles or {})
        if getattr(tokenizer.model, "unk_token", None):  # what it truly gives, whatever a file beside it says
            given["unknown"] = tokenizer.model.unk_token
        self.roles = {}
        for role, names in ROLES.items():
            known = [name for name in (given.get(role), *names) if name and tokenizer.token_to_id(name) is not None]
            self.roles[role] = known[0] if known else None
        if self.roles["unknown"] in (self.roles["begin"], self.roles["end"], self.roles["pad"]):
            self.roles["unknown"] = None  # named for form's sake, as by GPT-2, which knows every byte
        self.pad, self.unknown, self.begin, self.end, self.mask = (
            None if name is None else tokenizer.token_to_id(name) for name in self.roles.values()
        )
        added = {id for id, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self.special = {*added, self.pad, self.begin, self.end, self.mask} - {None, self.unknown}
        if self.begin is None and self.end is None:
            raise DataError(
                f"the tokenizer has no token for the start or end of a text (none of "
                f"{', '.join(ROLES['begin'][:2] + ROLES['end'][:2])})"
            )

    @classmethod
    def train(
        cls, texts: Iterable[str], *, kind: str = "wordpiece", vocabulary: int = 8000, lowercase: bool = True
    ) -> Tokenizer:
        """A tokenizer for these texts: WordPiece as BERT's (Devlin et al. 2019), or byte-level BPE as GPT-2's.

        vocabulary: tokens at most, special ones included. lowercase: WordPiece strips accents too.
        """
        if kind not in KINDS:
            raise ConfigError(f"tokenizer {kind!r}: must be one of {', '.join(KINDS)}")
        if vocabulary < 300:
            raise ConfigError(f"vocabulary={vocabulary}: must be at least 300, for single characters need that many")
        texts = list(texts)
        if not any(text.strip() for text in texts):
            raise DataError("there is no text to train a tokenizer on")
        train = train_wordpiece if kind == "wordpiece" else train_bpe
        return cls(train(texts, vocabulary, lowercase))

    @classmethod
    def load(cls, path: str | os.PathLike, *, of_run: bool = False) -> Tokenizer:
        """From a tokenizer.json, or a folder with one (a run's, or a checkpoint's of transformers).

        of_run: its files must be plain files, as all of a run.
        """
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.exists():
            raise CheckpointError(f"{file}: there is no tokenizer")
        content = read_file(file, of_run)
        try:
            tokenizer = needs("tokenizers").Tokenizer.from_buffer(content)
        except Exception as error:  # the library raises bare Exception for whatever is wrong in the file
            raise CheckpointError(f"{file}: is no tokenizer: {error}") from error
        return cls(tokenizer, read_roles(file.parent, of_run))

    def save(self, folder: str | os.PathLike) -> None:
        """Write tokenizer.json and the roles of its special tokens into the folder (each whole or not at all)."""
        parts = {
            "tokenizer.json": self.tokenizer.to_str(),
            "special_tokens_map.json": json.dumps(
                {key: self.roles[role] for key, role in ROLE_KEYS if self.roles[role]}
            ),
        }
        for name, text in parts.items():
            write_whole(Path(folder) / name, text.encode())

    @property
    def fingerprint(self) -> str:
        """Hex sha256 of everything that decides which ids a text gets."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    def check_fits(self, fingerprint: str, where: str, roles: dict[str, str | None] | None = None) -> None:
        """CheckpointError unless this is the tokenizer that `where` was trained with; roles: None where it has none."""
        if fingerprint != self.fingerprint:
            raise CheckpointError(
                f"{where} was trained with another tokenizer: its fingerprint is {fingerprint[:12]}.., "
                f"this one's {self.fingerprint[:12]}.."
            )
        for role, now in self.roles.items():
            if roles is not None and roles.get(role) != now:
                raise CheckpointError(
                    f"{where} was trained with other special tokens: {role} was {roles.get(role)!r} and is {now!r} "
                    "now; special_tokens_map.json or tokenizer_config.json there was changed"
                )

    def __len__(self) -> int:
        return self.vocabulary

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """(tokens int32 [T], offsets int64 [n + 1]) of the texts, without special tokens."""
        pieces = [np.empty(0, np.int32)]
        lengths = [0]
        for start in range(0, len(texts), 4096):  # block by block: the library's results are large
            block = list(texts[start : start + 4096])
            for place, one in enumerate(self.tokenizer.encode_batch_fast(block, add_special_tokens=False)):
                ids = one.ids
                if not self.special.isdisjoint(ids):
                    ids = self.plain_ids(block[place])
                pieces.append(np.asarray(ids, np.int32))
                lengths.append(len(ids))
        return torch.from_numpy(np.concatenate(pieces)), torch.tensor(lengths, dtype=torch.int64).cumsum(0)

    def encode_placed(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, list[list[tuple[int, int]]]]:
        """As `encode`, and of each text the characters [start, stop) of its tokens, without white space before them."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        found = [self.plain_tokens(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
        tokens = [id for tokens in found for id, _, _ in tokens]
        offsets = torch.tensor([0, *map(len, found)], dtype=torch.int64).cumsum(0)
        places = [
            [(stop - len(text[start:stop].lstrip()), stop) for _, start, stop in tokens]
            for text, tokens in zip(texts, found, strict=True)
        ]
        return torch.tensor(tokens, dtype=torch.int32), offsets, places

    def plain_ids(self, text: str) -> list[int]:
        return [id for id, _, _ in self.plain_tokens(text)]

    def plain_tokens(self, text: str, encoding: Any = None) -> list[tuple[int, int, int]]:
        """(id, start, stop) of the tokens of a text. Where the library finds special tokens in it, since its vocabulary
        holds them as words, it is cut in the middle of each; a special token of a single character is left out."""
        encoding = encoding or self.tokenizer.encode(text, add_special_tokens=False)
        found = [(id, *span) for id, span in zip(encoding.ids, encoding.offsets, strict=True)]
        cuts = sorted({(start + stop) // 2 for id, start, stop in found if id in self.special and stop - start > 1})
        if not cuts:
            return [one for one in found if one[0] not in self.special]
        return [
            (id, start + first, start + last)
            for start, stop in pairwise([0, *cuts, len(text)])
            for id, first, last in self.plain_tokens(text[start:stop])
        ]

    def is_unknown(self, tokens: Tensor) -> Tensor:
        """Which tokens are [UNK]: they stand for anything, and say nothing."""
        return torch.zeros_like(tokens, dtype=torch.bool) if self.unknown is None else tokens == self.unknown

    def decode(self, ids: Tensor) -> str:
        """The text of token ids, special tokens left out."""
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)


def train_wordpiece(texts: Sequence[str], vocabulary: int, lowercase: bool):
    """A WordPiece tokenizer as BERT's; the same for the same texts."""
    library = needs("tokenizers")
    normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)

    def build(model):
        tokenizer = library.Tokenizer(model)
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = library.decoders.WordPiece()
        return tokenizer

    # The trainer numbers ##letters in the order of a hash table, which differs from run to run and decides ties: as
    # special tokens they have fixed numbers. The tokenizer that is kept does not know them as special.
    counts = Counter(letter for text in texts for letter in normalizer.normalize_str(text) if not letter.isspace())
    room = (vocabulary - len(SPECIALS)) // 2  # for letters: each has a token at the start of a word, and one inside
    if len(counts) > room:  # the rarest are unknown then
        kept = sorted(counts, key=lambda letter: (-counts[letter], letter))[:room]
        rare = str.maketrans(dict.fromkeys(counts.keys() - set(kept), " "))
        texts = [normalizer.normalize_str(text).translate(rare) for text in texts]
        counts = Counter(kept)
    letters = sorted(counts)
    learner = build(library.models.WordPiece(unk_token="[UNK]"))
    fixed = [*SPECIALS, *(f"##{letter}" for letter in letters)]
    learner.train_from_iterator(
        texts,
        library.trainers.WordPieceTrainer(
            vocab_size=vocabulary, special_tokens=fixed, min_frequency=2, show_progress=False
        ),
    )
    tokenizer = build(library.models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


def train_bpe(texts: Sequence[str], vocabulary: int, lowercase: bool):
    """A byte-level BPE tokenizer as GPT-2's."""
    library = needs("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    if lowercase:
        tokenizer.normalizer = library.normalizers.Lowercase()
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        library.trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=list(SPECIALS), min_frequency=2, show_progress=False,
            initial_alphabet=sorted(library.pre_tokenizers.ByteLevel.alphabet()),
        ),
    )  # fmt: skip
    return tokenizer


ROLE_KEYS = (
    ("cls_token", "begin"),
    ("bos_token", "begin"),
    ("sep_token", "end"),
    ("eos_token", "end"),
    ("pad_token", "pad"),
    ("mask_token", "mask"),
    ("unk_token", "unknown"),
)


def read_roles(folder: Path, of_run: bool = False) -> dict[str, str]:
    """{role: token} from what transformers writes beside a tokenizer; {} where there is nothing."""
    roles: dict[str, str] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        file = folder / name
        if not os.path.lexists(file):
            continue
        content = read_file(file, of_run)
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{file}: cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise CheckpointError(f"{file}: must hold names and values, got a {type(values).__name__}")
        for key, role in ROLE_KEYS:
            token = values.get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and not isinstance(token, str):
                raise CheckpointError(f"{file}: {key} must be a token, not {token!r}")
            if token and role not in roles:
                roles[role] = token
    return roles


def read_file(file: Path, of_run: bool) -> bytes:
    """Of a run, which may come from anybody, no link is followed; a folder of models may be made of links."""
    try:
        return read_plain(file if of_run else os.path.realpath(file), MOST_BYTES)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
