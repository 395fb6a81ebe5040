"""Tokenizers trained on a few sentences, and text encoders of a few layers."""

from io import BytesIO

import sentencepiece
from transformers import T5Config, T5EncoderModel, T5Tokenizer, UMT5Config, UMT5EncoderModel

TEXT_WIDTH = 64
CORPUS = (
    "A cat walks along the beach at sunset while gentle waves roll over the warm sand.",
    "Two anthropomorphic cats in comfy boxing gear fight on a spotlighted stage.",
    "The camera slowly moves through a forest of tall trees after the rain.",
    "A red car drives down a winding mountain road, seen from above, in the morning light.",
    "An astronaut rides a white horse across a field of flowers under a bright blue sky.",
    "Close-up of a hand painting a watercolour portrait, soft focus, natural light, high quality.",
    "Bright tones, overexposed, static, blurred details, subtitles, worst quality, low quality, ugly.",
    "0 1 2 3 4 5 6 7 8 9 ! ? . , ; : ' \" ( ) - + / & % # @ * =",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "A B C D E F G H I J K L M N O P Q R S T U V W X Y Z",
)


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer over a sentencepiece unigram model trained on the corpus above."""
    trained = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=trained,
        model_type="unigram",
        vocab_size=256,
        hard_vocab_limit=False,
        character_coverage=1.0,
        normalization_rule_name="identity",
        num_threads=1,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        eos_piece="</s>",
        unk_piece="<unk>",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    vocabulary = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.get_piece_size())]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=512)


# The sizes of the text encoders.
_SIZES = {
    "d_model": TEXT_WIDTH,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": 2,
    "num_heads": 8,
    "dropout_rate": 0.0,
}


def umt5_encoder(vocabulary: int) -> UMT5EncoderModel:
    """The text encoder of Wan, over `vocabulary` tokens."""
    return UMT5EncoderModel(UMT5Config(vocab_size=vocabulary, **_SIZES)).eval()


def t5_encoder(vocabulary: int) -> T5EncoderModel:
    """The text encoder of CogVideoX, over `vocabulary` tokens."""
    config = T5Config(vocab_size=vocabulary, feed_forward_proj="gated-gelu", **_SIZES)
    return T5EncoderModel(config).eval()
