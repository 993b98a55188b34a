"""Word-level tokenizers: a vocabulary is a dictionary from token to id (book, sections 2.2 to 2.4).

They exist to be understood. From section 2.5 on, the book uses GPT-2's byte pair encoding instead.
"""

import re

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"

# A piece of punctuation, a double hyphen, or one white-space character. The group is captured,
# so that re.split() returns the separators too.
SPLIT_PATTERN = r'([,.:;?_!"()\']|--|\s)'


class UnknownTokenError(KeyError):
    """A token or an id that the vocabulary does not have."""

    def __str__(self):
        return self.args[0]  # a KeyError would show its message in quotation marks


def split_text(text):
    """Words and punctuation marks of `text` in order, without white space.

    Raises:
        TypeError: `text` is not a str.

    Source: book, section 2.2.
    """
    if not isinstance(text, str):
        raise TypeError(f"The text must be a str, but is of type {type(text).__name__}.")
    pieces = (piece.strip() for piece in re.split(SPLIT_PATTERN, text))
    return [piece for piece in pieces if piece]


def build_vocab(tokens):
    """Give each distinct token an id, in sorted order, from 0.

    Source: book, section 2.3.
    """
    return {token: token_id for token_id, token in enumerate(sorted(set(tokens)))}


def look_up(table, key):
    """`table[key]`, with an error that says what is missing and what to do."""
    if key not in table:
        if isinstance(key, str):
            advice = f"tokens; SimpleTokenizerV2 reads any word, as {UNKNOWN!r}."
        else:
            advice = f"ids, which run from 0 to {max(table)}."
        raise UnknownTokenError(f"{key!r} is not among the vocabulary's {len(table):,} {advice}")
    return table[key]


class SimpleTokenizerV1:
    """Turns text into ids and back, for words of its vocabulary only.

    Args:
        vocab: {token: id}, for instance from `build_vocab`.

    Source: book, section 2.3.
    """

    def __init__(self, vocab):
        self.str_to_int = vocab
        self.int_to_str = {token_id: token for token, token_id in vocab.items()}

    def encode(self, text):
        """Ids of the text's tokens, a list of int.

        Raises:
            UnknownTokenError: a KeyError; the text has a word that the vocabulary lacks.
        """
        return [look_up(self.str_to_int, token) for token in split_text(text)]

    def decode(self, ids):
        """The tokens' text, with single blanks, and none before punctuation.

        Raises:
            UnknownTokenError: a KeyError; an id that the vocabulary lacks.
        """
        text = " ".join(look_up(self.int_to_str, token_id) for token_id in ids)
        return re.sub(r'\s+([,.?!"()\'])', r"\1", text)


class SimpleTokenizerV2:
    """As `SimpleTokenizerV1`, but reads a word that the vocabulary lacks as `<|unk|>`.

    Args:
        vocab: {token: id}; it must have the token `<|unk|>`.

    Raises:
        ValueError: it does not.

    Source: book, section 2.4.
    """

    def __init__(self, vocab):
        if UNKNOWN not in vocab:
            raise ValueError(f"The vocabulary of {len(vocab):,} tokens lacks {UNKNOWN!r}: add it.")
        self.str_to_int = vocab
        self.int_to_str = {token_id: token for token, token_id in vocab.items()}

    def encode(self, text):
        """Ids of the text's tokens, a list of int."""
        unknown_id = self.str_to_int[UNKNOWN]
        return [self.str_to_int.get(token, unknown_id) for token in split_text(text)]

    def decode(self, ids):
        """The tokens' text, with single blanks, and none before punctuation.

        Raises:
            UnknownTokenError: a KeyError; an id that the vocabulary lacks.
        """
        text = " ".join(look_up(self.int_to_str, token_id) for token_id in ids)
        return re.sub(r'\s+([,.:;?!"()\'])', r"\1", text)
