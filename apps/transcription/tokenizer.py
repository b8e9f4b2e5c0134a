"""Text as numbers and back: SentencePiece models (Kudo and Richardson 2018), and where a model's one lies.

A converted or shipped model has its tokenizer beside its weights, as `NAME.tokenizer.model`; a checkpoint of training
carries its bytes. `load_tokenizer(card)` finds either; `wavecast.cards` writes and reads both.
"""

import io
import struct
from collections.abc import Iterable, Sequence

import sentencepiece

from wavecast.cards import Card, read_tokenizer
from wavecast.core.errors import WavecastError

WORD = "▁"
"""What the first piece of a word begins with."""
UNKNOWN = "<unk>"
MOST_BYTES = 16 << 20
HINT = "it is damaged, or no SentencePiece model"


class Tokenizer:
    """A SentencePiece model; one is made by `from_bytes`, `from_pieces` or `load_tokenizer`.

    Args:
        model: bytes of a SentencePiece model.

    Attributes:
        model: those bytes.
        pieces: the text of every token; a token's number is its place.
        unknown: the token of what no piece covers.

    Raises:
        WavecastError: they are no such model.
    """

    def __init__(self, model: bytes) -> None:
        sentencepiece.set_min_log_level(4)  # it raises what it logs
        if len(model) > MOST_BYTES:
            raise WavecastError(f"the tokenizer has {len(model)} bytes, more than {MOST_BYTES}", HINT)
        self.model, self._processor = model, sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model)
            self.pieces = tuple(self._processor.id_to_piece(i) for i in range(self._processor.get_piece_size()))
        except (RuntimeError, UnicodeDecodeError) as error:
            raise WavecastError(f"the tokenizer cannot be read: {_reason(error)}", HINT) from error
        self.unknown: int = self._processor.unk_id()

    @staticmethod
    def from_bytes(model: bytes) -> "Tokenizer":
        """Read a SentencePiece model; see `Tokenizer`."""
        return Tokenizer(model)

    @staticmethod
    def from_pieces(pieces: Sequence[str]) -> "Tokenizer":
        """Make the byte-pair model that has these pieces: for archives that hold a vocabulary and no model.

        Its merges are ranked by the order of the pieces, as in every model that SentencePiece trained; how the text
        was normalized before is not known, so accents and ligatures are taken as they are.

        Raises:
            WavecastError: the pieces have no unknown token, an empty one, or one twice.
        """
        if UNKNOWN not in pieces:
            raise WavecastError(f"the vocabulary has no {UNKNOWN}", "it is not that of a SentencePiece tokenizer")
        try:
            return Tokenizer(_byte_pair_model(pieces))
        except UnicodeEncodeError as error:
            raise WavecastError("the vocabulary holds what is no text", HINT) from error

    def __len__(self) -> int:
        """Count the tokens; the blank of CTC and of transducers is not among them."""
        return len(self.pieces)

    def score(self, token: int) -> float:
        """Give the score of a token: of a byte-pair model minus the rank of its merge."""
        return self._processor.get_score(token)

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens."""
        return self._processor.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text; the unknown one becomes ⁇ between spaces, as SentencePiece has it.

        Raises:
            WavecastError: a token is not in the vocabulary.
        """
        strange = [token for token in tokens if not 0 <= token < len(self.pieces)]
        if strange:
            raise WavecastError(f"token {strange[0]} is none of the {len(self.pieces)} of the tokenizer", HINT)
        return self._processor.decode([int(token) for token in tokens])

    def words(self, tokens: Sequence[int]) -> list[list[int]]:
        """Group tokens into words.

        Args:
            tokens: of an utterance.

        Returns:
            Of each word the places in `tokens`. Decoded one by one, the words are those of the whole text: an unknown
            token is a word of its own, and a mark of a new word that no letter follows belongs to none.
        """
        groups: list[list[int]] = []
        after_unknown = True
        for place, token in enumerate(tokens):
            piece, is_unknown = self.pieces[token], token == self.unknown
            if piece.startswith(WORD) or is_unknown or after_unknown:
                groups.append([])
            groups[-1].append(place)
            after_unknown = is_unknown
        return [group for group in groups if self.decode([tokens[place] for place in group]).strip()]


def load_tokenizer(card: Card) -> Tokenizer:
    """Read the tokenizer of a model.

    Raises:
        WavecastError: it is missing, is not the one that the card means, or has another number of tokens than the
            model.
    """
    tokenizer = Tokenizer(read_tokenizer(card))
    expected = card.hyperparameters.get("vocabulary")
    if len(tokenizer) != expected:
        raise WavecastError(
            f"the tokenizer of {card.name} has {len(tokenizer)} tokens, the model {expected}",
            "tokenizer and weights are of different models",
        )
    return tokenizer


def train(texts: Iterable[str], size: int) -> bytes:
    """Learn a byte-pair tokenizer (Sennrich et al. 2016) as the official models have it.

    Args:
        texts: transcripts, written as the model is to write.
        size: number of tokens; token 0 is the unknown one, there are none for begin, end and padding.

    Returns:
        Bytes of the SentencePiece model, for `Tokenizer`; the same for the same texts.

    Raises:
        WavecastError: there are no texts, or too few for so many tokens, or more characters than tokens.
    """
    sentencepiece.set_min_log_level(4)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size,
            model_type="bpe",
            character_coverage=1.0,
            max_sentence_length=1 << 16,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            num_threads=1,
            minloglevel=4,
        )
    except RuntimeError as error:
        raise WavecastError(
            f"no tokenizer of {size} tokens can be learned from these texts: {_reason(error)}",
            "choose another number of tokens, or give more text",
        ) from error
    return model.getvalue()


def _reason(error: Exception) -> str:
    """Give what SentencePiece says in one line, without the place in its source."""
    text = " ".join(str(error).split())
    return text.rpartition("] ")[2] or text.rpartition(") ")[2]


def _byte_pair_model(pieces: Sequence[str]) -> bytes:
    """Write a SentencePiece model in its format, a Protocol Buffers message.

    ModelProto: 1 = pieces (1 = text, 2 = score, 3 = type, where 2 is the unknown one), 2 = trainer (3 = algorithm,
    where 2 is byte pairs), 3 = normalizer.
    """
    written = bytearray()
    rank = 0
    for piece in pieces:
        is_unknown = piece == UNKNOWN
        score = 0.0 if is_unknown else -float(rank)
        kind = b"\x18\x02" if is_unknown else b""
        written += _field(1, _field(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + kind)
        rank += not is_unknown
    return bytes(written + _field(2, b"\x18\x02") + _field(3, b""))


def _field(number: int, body: bytes) -> bytes:
    """Write a field of bytes: its number and type 2, its length, the bytes."""
    size, length = len(body), bytearray()
    while size > 127:
        length.append(size & 127 | 128)
        size >>= 7
    return bytes([number << 3 | 2]) + bytes([*length, size]) + body
