import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from dynfocus_reference.data.conversation import SYSTEM, encode
from dynfocus_reference.data.records import BadSampleError, JsonLines, Turn, parse_record
from dynfocus_reference.processing import byte_tokenizer

TOKENIZER = byte_tokenizer()


def sentencepiece_like():
    """Llama's way: every text begins with a space of its own."""
    letters = ["<pad>", "<s>", "</s>", "<0x0A>", "▁", *"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ:.,'?"]
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token=AddedToken("</s>", normalized=False)
    )


def read(encoded, tokenizer=TOKENIZER):
    """The text, with <v> for a placeholder, and the supervised part of it between brackets."""
    text, inside = "", False
    for token, label in zip(encoded.input_ids.tolist(), encoded.labels.tolist(), strict=True):
        assert label in (-100, token)
        if (label != -100) != inside:
            text, inside = text + ("]" if inside else "["), not inside
        text += "<v>" if token == -200 else tokenizer.decode([token])
    return text + ("]" if inside else "")


TURNS = [Turn("What?", "A cat.", True), Turn("Why?", "It is.", False)]


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        (["front", None], "USER:<v>\nWhat? ASSISTANT:[ A cat.</s>]USER: Why? ASSISTANT:[ It is.</s>]"),
        (["end", None], "USER: What?\n<v> ASSISTANT:[ A cat.</s>]USER: Why? ASSISTANT:[ It is.</s>]"),
        (["front", "end"], "USER:<v>\nWhat? ASSISTANT:[ A cat.</s>]USER: Why?\n<v> ASSISTANT:[ It is.</s>]"),
        ([None, None], "USER: What? ASSISTANT:[ A cat.</s>]USER: Why? ASSISTANT:[ It is.</s>]"),
    ],
)
def test_vicuna(places, expected):
    encoded = encode(TURNS, TOKENIZER, places=places)
    assert read(encoded) == f"<s>{SYSTEM} {expected}"
    assert encoded.questions == [turn.question for turn, place in zip(TURNS, places, strict=True) if place]


def test_plain_gives_the_instruction_to_the_connector_only():
    encoded = encode([Turn("Describe it.", "a dog runs", True)], TOKENIZER, template="plain", places=["front"])
    assert read(encoded) == "<s><v>[a dog runs\n]"
    assert encoded.questions == ["Describe it."]


def test_generation_prompt_is_the_beginning_of_the_training_sample():
    trained = encode(TURNS, TOKENIZER, places=["front", None]).input_ids
    asked = encode([TURNS[0], Turn("Why?", None, False)], TOKENIZER, places=["front", None]).input_ids
    assert torch.equal(trained[: len(asked)], asked)
    assert read(encode([Turn("Why?", None, False)], TOKENIZER, places=[None])).endswith("USER: Why? ASSISTANT:")


def test_sentencepiece_does_not_get_two_spaces():
    tokenizer = sentencepiece_like()
    encoded = encode([Turn("why", "so", True)], tokenizer, places=["front"])
    pieces = [tokenizer.convert_ids_to_tokens(i) if i >= 0 else "<v>" for i in encoded.input_ids.tolist()]
    text = "".join(pieces).split("questions.")[1]
    assert text == "▁USER:<v>▁why▁ASSISTANT:▁so</s>"
    assert encoded.labels[encoded.labels != -100].tolist() == encoded.input_ids[-4:].tolist()


def test_later_turns_are_left_out_where_the_whole_is_too_long():
    whole = encode(TURNS, TOKENIZER, places=["front", "front"])
    cut = encode(TURNS, TOKENIZER, places=["front", "front"], max_length=len(whole.input_ids) - 1)
    assert cut.turns == 1
    assert cut.questions == ["What?"]
    assert torch.equal(cut.input_ids, whole.input_ids[: len(cut.input_ids)])
    with pytest.raises(ValueError, match=r"first turn of at most 20 tokens, got 186"):
        encode(TURNS, TOKENIZER, places=[None, None], max_length=20)
    with pytest.raises(ValueError, match=r"template among .* got 'chatml'"):
        encode(TURNS, TOKENIZER, template="chatml", places=[None, None])


def record(*values, **shown):
    speakers = ["human", "gpt"] * len(values)
    talk = [{"from": who, "value": value} for who, value in zip(speakers, values, strict=False)]
    return {"id": 7, **shown, "conversations": talk}


def test_records():
    parsed = parse_record(record("<image>\nWhat?", " A cat. ", "Why?", "It is.", video="a.mp4", duration=3), "f[0]")
    assert parsed == ("7", "video", "a.mp4", TURNS, 3.0)
    assert parse_record(record("Hi", "Ho", text="kept"), "f[0]")[1:3] == ("text", None)
    assert parse_record(record("<video>\nHi", "Ho", video="v"), "f[0]").turns[0] == ("Hi", "Ho", True)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (record("<image>\nHi", "Ho"), r"f\[3\]: expected at most 0 <image> in a text sample, got 1"),
        (record("<image>", "a", "<image>", "b", image="x"), "at most 1 <image> in a image sample, got 2"),
        (record("Hi"), r"expected turns human, gpt, human, gpt, ..., got \['human'\]"),
        (record("Hi", " "), "expected an answer in every turn"),
        (record("Hi", None), "expected text in every turn, got .*NoneType"),
        ({"id": 1}, "expected an object with a list 'conversations'"),
        (
            {"conversations": [{"from": "gpt", "value": "x"}, {"from": "human", "value": "y"}]},
            r"got \['gpt', 'human'\]",
        ),
        ({"conversations": []}, r"expected turns .* got \[\]"),
        ({"conversations": ["Hi", "Ho"]}, r"f\[3\]: expected turns with 'from' and 'value', got 'Hi'"),
        (record("Hi", "Ho", image=["a", "b"]), r"f\[3\]: expected the path of one image, got \['a', 'b'\]"),
        *(
            (record("Hi", "Ho", video="v", duration=value), r"f\[3\]: expected duration as a number of seconds, got")
            for value in ("00:12", "N/A", [1], float("inf"), 10**400)
        ),
    ],
)
def test_bad_records_are_named(raw, message):
    with pytest.raises(BadSampleError, match=message):
        parse_record(raw, "f[3]")


def test_files(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"id": 1}\n\n{"id": "é"}\nnonsense\n', encoding="utf-8")
    lines = JsonLines(tmp_path / "a.jsonl")
    assert [lines[0], lines[1], len(lines)] == [{"id": 1}, {"id": "é"}, 3]
    with pytest.raises(BadSampleError, match=r"a.jsonl\[2\]: expected JSON"):
        lines[2]
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(BadSampleError, match=r"latin.jsonl\[0\]: expected JSON .* 'utf-8' codec"):
        JsonLines(tmp_path / "latin.jsonl")[0]
    (tmp_path / "a.json").write_text('[{"id": 1}]')
    assert list(JsonLines(tmp_path / "a.json")) == [{"id": 1}]
    for text, message in (("{}", "expected a list .* got dict"), ("[", "expected JSON in")):
        (tmp_path / "b.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            JsonLines(tmp_path / "b.json")
    with pytest.raises(FileNotFoundError, match="found no"):
        JsonLines(tmp_path / "c.json")
