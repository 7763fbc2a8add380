use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::test_gguf::GgufWriter;
use crate::test_random::Random;

const TINY: &[u8] = include_bytes!("../../tests/fixtures/tiny_tokenizer.json");

pub(super) fn tiny() -> Tokenizer {
    Tokenizer::from_json_bytes(TINY).unwrap()
}

pub(super) fn tiny_with(change: impl FnOnce(&mut Value)) -> Result<Tokenizer, TextError> {
    let mut json: Value = serde_json::from_slice(TINY).unwrap();
    change(&mut json);
    Tokenizer::from_json_bytes(json.to_string().as_bytes())
}

pub(super) fn gguf(writer: &GgufWriter) -> Result<Tokenizer, TextError> {
    Tokenizer::from_gguf(writer.write().path())
}

pub(super) fn texts(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    tokenizer.encode(text, true).unwrap().ids.iter().map(|&id| tokenizer.token_text(id)).collect()
}

#[test]
fn json_and_gguf_of_one_vocabulary_give_the_same_ids() {
    let (json, gguf) = (tiny(), gguf(&GgufWriter::tiny("gpt-2")).unwrap());
    for text in ["Hello world", "<|im_start|>user\nthe 한국 😀<|im_end|>\n", "a\t \r\n b", ""] {
        assert_eq!(json.encode(text, true).unwrap(), gguf.encode(text, true).unwrap(), "{text:?}");
        assert_eq!(json.encode_ids(text, true).unwrap(), json.encode(text, true).unwrap().ids);
    }
}

#[test]
fn exact_ranges_hold_all_that_a_token_stands_for_and_added_tokens_stand_for_nothing() {
    let opens = json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {
        "<|im_start|>": {"id": "<|im_start|>", "ids": [306], "tokens": ["<|im_start|>"]}},
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]});
    let tokenizer = tiny_with(|json| json["post_processor"] = opens).unwrap();
    let text = "Hello  and é😀<|im_end|> world";
    let exact = tokenizer.encode_exact(text, true).unwrap();
    assert_eq!(exact.ids, tokenizer.encode_ids(text, true).unwrap());
    assert_eq!((exact.ids[0], &exact.offsets[0]), (306, &(0..0)));
    let mut end = 0;
    for (&id, range) in exact.ids.iter().zip(&exact.offsets).skip(1) {
        assert!(range.start == end || range.end == end, "{range:?} leaves out what is before it");
        let token = tokenizer.token_bytes(id);
        assert!(
            text[range.clone()].as_bytes().windows(token.len()).any(|part| part == token),
            "{id} is not in {range:?}"
        );
        end = range.end;
    }
    assert_eq!(end, text.len());
}

#[test]
fn offsets_are_byte_ranges_of_the_text() {
    let encoding = tiny().encode("é Hello<|im_end|>", true).unwrap();
    let parts: Vec<&str> = encoding.offsets.iter().map(|range| &"é Hello<|im_end|>"[range.clone()]).collect();
    assert_eq!(parts, ["é", " ", "Hello", "<|im_end|>"]);
}

#[test]
fn special_tokens_are_known_by_name_and_hidden_on_wish() {
    let tokenizer = tiny().with_bos_eos(Some("<|im_start|>"), Some("<|im_end|>"));
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert!(tokenizer.is_special(end) && !tokenizer.is_special(0) && !tokenizer.is_special(u32::MAX));
    assert_eq!(tokenizer.token_text(end), "<|im_end|>");
    assert_eq!((tokenizer.bos_token(), tokenizer.eos_token()), (Some("<|im_start|>"), Some("<|im_end|>")));
    let ids = tokenizer.encode_ids("Hello<|im_end|>", false).unwrap();
    assert_eq!(tokenizer.decode(&ids, true), "Hello");
    assert_eq!(tokenizer.decode(&ids, false), "Hello<|im_end|>");
    assert_eq!(tokenizer.vocab_size(), end + 1);
}

#[test]
fn half_a_character_is_shown_as_a_replacement_and_its_bytes_are_known() {
    let tokenizer = tiny();
    let ids = tokenizer.encode_ids("😀", false).unwrap();
    assert_eq!(ids.len(), 2);
    assert_eq!(tokenizer.token_text(ids[0]), "\u{FFFD}");
    assert_eq!(tokenizer.token_bytes(ids[0]), [0xF0, 0x9F, 0x98]);
    assert_eq!(tokenizer.decode(&ids, false), "😀");
    assert_eq!(tokenizer.decode(&ids[..1], false), "\u{FFFD}");
    assert_eq!(tokenizer.token_bytes(1 << 30), b"");
}

#[test]
fn each_pre_tokenizer_cuts_as_its_model_was_trained() {
    let cut = |pre: &str, text: &str| texts(&gguf(&GgufWriter::tiny(pre)).unwrap(), text);
    assert_eq!(cut("smollm", "Hello 12"), ["Hello", " ", "1", "2"]);
    assert_eq!(cut("gpt-2", "I'LL"), ["I", "'", "L", "L"]);
    assert_eq!(cut("gpt-2", "\n\nHello"), ["\n", "\n", "Hello"]);
    assert_eq!(cut("qwen2", "\n\nHello"), ["\n\n", "Hello"]);
    assert_eq!(cut("llama3", "\n\nHello"), ["<|im_start|>", "\n\n", "Hello"]);
}

#[test]
fn unknown_kinds_are_refused_by_name() {
    let error = gguf(&GgufWriter::tiny("bert-bge")).unwrap_err().to_string();
    assert!(error.contains("pre-tokenizer `bert-bge` is not supported; known are default, gpt-2, "), "{error}");
    for model in ["bert", "rwkv", "plamo2", "hybriddna", "whitespace"] {
        let error = gguf(&GgufWriter::new().string("tokenizer.ggml.model", model)).unwrap_err().to_string();
        assert!(error.contains(&format!("tokenizer model `{model}` is not supported")), "{error}");
    }
    assert!(matches!(gguf(&GgufWriter::new()), Err(TextError::NoTokenizer)));
    let ctc = tiny_with(|json| json["decoder"] = json!({"type": "CTC"}));
    assert!(ctc.unwrap_err().to_string().contains("decoder `CTC` is not supported"));
}

#[test]
fn the_header_decides_about_beginning_and_end_tokens() {
    let plain = gguf(&GgufWriter::tiny("smollm")).unwrap();
    assert_eq!(texts(&plain, "Hello"), ["Hello"]);
    let both = GgufWriter::tiny("smollm")
        .bool("tokenizer.ggml.add_bos_token", true)
        .bool("tokenizer.ggml.add_eos_token", true);
    let both = gguf(&both).unwrap();
    assert_eq!(texts(&both, "Hello"), ["<|im_start|>", "Hello", "<|im_end|>"]);
    assert_eq!(both.encode("Hello", true).unwrap().offsets, [0..0, 0..5, 5..5]);
    assert_eq!(both.encode_ids("Hello", true).unwrap(), both.encode("Hello", true).unwrap().ids);
    assert_eq!(both.encode_ids("Hello", false).unwrap().len(), 1);
    let off = gguf(&GgufWriter::tiny("llama-bpe").bool("tokenizer.ggml.add_bos_token", false)).unwrap();
    assert_eq!(texts(&off, "Hello"), ["Hello"]);
}

#[test]
fn a_turn_end_that_a_header_calls_ordinary_is_special_all_the_same() {
    let tokens: Vec<String> = ["<", "|", "a", "<|im_end|>"].map(str::to_owned).to_vec();
    let writer = GgufWriter::new()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 4]);
    let tokenizer = gguf(&writer).unwrap();
    assert_eq!(tokenizer.encode_ids("a<|im_end|>a", false).unwrap(), [2, 3, 2]);
    assert!(tokenizer.is_special(3));
}

#[test]
fn user_defined_tokens_are_found_in_text_and_are_not_special() {
    let tokenizer = gguf(&GgufWriter::tiny("smollm")).unwrap();
    assert_eq!(texts(&tokenizer, "Hello<tool call>Hello"), ["Hello", "<tool call>", "Hello"]);
    let id = tokenizer.token_to_id("<tool call>").unwrap();
    assert!(!tokenizer.is_special(id));
    assert_eq!(tokenizer.decode(&[id], true), "<tool call>");
}

#[test]
fn bytes_that_a_vocabulary_lacks_are_dropped_and_keep_their_neighbours_apart() {
    let tokens: Vec<String> = ["!", "!!", "a"].map(str::to_owned).to_vec();
    let writer = GgufWriter::new()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .strings("tokenizer.ggml.merges", &["! !".to_owned()]);
    let tokenizer = gguf(&writer).unwrap();
    assert_eq!(texts(&tokenizer, "!!a"), ["!!", "a"]);
    assert_eq!(texts(&tokenizer, "!\u{4}!"), ["!", "!"]);
    assert_eq!((tokenizer.vocab_size(), tokenizer.token_to_id("Ġ")), (3, None));
}

#[test]
fn a_broken_header_names_its_key() {
    let empty = GgufWriter::new().string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    assert!(gguf(&empty).unwrap_err().to_string().contains("`tokenizer.ggml.tokens` is missing or empty"));
    let tokens = empty.strings("tokenizer.ggml.tokens", &["a".to_owned()]);
    let merges = tokens.strings("tokenizer.ggml.merges", &["a b".to_owned()]);
    assert!(gguf(&merges).unwrap_err().to_string().contains("element 0 (`a b`) does not join two tokens to one"));
    let eos = GgufWriter::tiny("smollm").u32("tokenizer.ggml.eot_token_id", 9).u32("x", 1);
    assert!(gguf(&eos).is_ok());
}

/// Unknown, beginning, end; bytes; then tokens of which some have one score, a user-defined one at the end.
pub(super) fn spm_header(tokens: &[(&str, f32)]) -> GgufWriter {
    let marked = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned);
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let names = marked.chain(bytes).chain(tokens.iter().map(|(name, _)| (*name).to_owned()));
    let names: Vec<String> = names.chain(["<tool>".to_owned()]).collect();
    let types: Vec<i32> = [2, 3, 3].into_iter().chain([6; 256]).chain(tokens.iter().map(|_| 1)).chain([4]).collect();
    let scores: Vec<f32> = [0.0; 259].into_iter().chain(tokens.iter().map(|&(_, score)| score)).chain([0.0]).collect();
    GgufWriter::new()
        .string("tokenizer.ggml.model", "llama")
        .strings("tokenizer.ggml.tokens", &names)
        .i32s("tokenizer.ggml.token_type", &types)
        .floats("tokenizer.ggml.scores", &scores)
}

pub(super) const SPM_TOKENS: [(&str, f32); 10] = [
    ("▁", -9.0),
    ("a", -9.0),
    ("b", -9.0),
    ("ab", -2.0),
    ("ba", -1.0),
    ("aa", -3.0),
    ("▁a", -4.0),
    ("▁▁", -5.0),
    ("xy", -6.0),
    ("xyz", -7.0),
];

#[test]
fn sentencepiece_joins_the_highest_score_first_and_of_equals_the_leftmost() {
    let tokenizer = gguf(&spm_header(&SPM_TOKENS)).unwrap();
    assert_eq!(texts(&tokenizer, "abab"), ["<s>", " a", "ba", "b"]);
    assert_eq!(texts(&tokenizer, "baaa"), ["<s>", " ", "ba", "aa"]);
    assert_eq!(texts(&tokenizer, "aaa"), ["<s>", " ", "aa", "a"]);
    // `x` is no token and yet joins.
    assert_eq!(texts(&tokenizer, "xyz"), ["<s>", " ", "xyz"]);
    assert_eq!(tokenizer.encode_ids("", true).unwrap(), [1]);
}

#[test]
fn sentencepiece_puts_a_space_before_a_text_and_after_what_is_marked() {
    let tokenizer = gguf(&spm_header(&SPM_TOKENS)).unwrap();
    assert_eq!(texts(&tokenizer, "a</s>a<tool>b"), ["<s>", " a", "</s>", " a", "<tool>", " ", "b"]);
    let plain = spm_header(&SPM_TOKENS)
        .bool("tokenizer.ggml.add_space_prefix", false)
        .bool("tokenizer.ggml.add_bos_token", false)
        .bool("tokenizer.ggml.add_eos_token", true);
    assert_eq!(texts(&gguf(&plain).unwrap(), "a a"), ["a", " a", "</s>"]);
}

#[test]
fn sentencepiece_falls_back_to_bytes_and_never_shows_half_a_character() {
    let tokenizer = Arc::new(gguf(&spm_header(&SPM_TOKENS)).unwrap());
    let encoding = tokenizer.encode("a한b", true).unwrap();
    let names: Vec<u32> = [0xED, 0x95, 0x9C].iter().map(|byte| 3 + byte).collect();
    assert_eq!(encoding.ids[2..5], names);
    assert_eq!(encoding.offsets, [0..0, 0..1, 1..4, 1..4, 1..4, 4..5]);
    assert_eq!(tokenizer.decode(&encoding.ids, true), "a한b");
    let mut stream = crate::Detokenizer::new(tokenizer, &[], true);
    let pushed: Vec<String> = encoding.ids.iter().map(|&id| stream.push(id)).collect();
    assert_eq!(pushed, ["", "a", "", "", "한", "b"]);
}

#[test]
fn hostile_texts_take_sentencepiece_time_in_proportion_to_their_length() {
    let tokenizer = gguf(&spm_header(&SPM_TOKENS)).unwrap();
    for unit in ["a", " ", "ab", "x", "😀"] {
        let text = unit.repeat((1 << 17) / unit.len());
        let start = Instant::now();
        let ids = tokenizer.encode_ids(&text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true), text, "{unit:?}");
        assert!(start.elapsed() < Duration::from_secs(20), "{unit:?}: {:?}", start.elapsed());
    }
}

#[test]
fn a_sentencepiece_header_without_scores_is_refused() {
    let header = GgufWriter::new().string("tokenizer.ggml.model", "llama");
    let header = header.strings("tokenizer.ggml.tokens", &["a".to_owned()]);
    let error = gguf(&header).unwrap_err().to_string();
    assert!(error.contains("`tokenizer.ggml.scores` has 0 elements for 1 tokens"), "{error}");
}

pub(super) fn llama2() -> Tokenizer {
    let vocab: Vec<(String, u32)> = ["<unk>", "<s>", "</s>", "▁", "▁Hello", "▁wor", "ld", "a", "b"]
        .into_iter()
        .map(str::to_owned)
        .chain((0..=255).map(|byte| format!("<0x{byte:02X}>")))
        .zip(0..)
        .collect();
    let vocab: serde_json::Map<String, Value> = vocab.into_iter().map(|(token, id)| (token, id.into())).collect();
    tiny_with(|json| {
        json["pre_tokenizer"] = Value::Null;
        json["post_processor"] = Value::Null;
        json["model"]["vocab"] = Value::Object(vocab);
        json["model"]["merges"] = json!([]);
        json["model"]["byte_fallback"] = true.into();
        for (id, token) in ["<unk>", "<s>", "</s>"].iter().enumerate() {
            json["added_tokens"][id]["id"] = id.into();
            json["added_tokens"][id]["content"] = (*token).into();
        }
        json["decoder"] = json!({"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]});
    })
    .unwrap()
}

fn metaspace() -> Tokenizer {
    tiny_with(|json| {
        json["decoder"] = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
        json["model"]["vocab"]["▁Hello"] = 308.into();
        json["model"]["vocab"]["▁"] = 309.into();
    })
    .unwrap()
}

/// All tokenizers that decode in different ways.
pub(crate) fn decoding_kinds() -> Vec<Tokenizer> {
    vec![tiny(), llama2(), metaspace(), gguf(&GgufWriter::tiny("smollm")).unwrap()]
}

#[test]
fn sentencepiece_decoding_drops_the_first_space_only() {
    let tokenizer = llama2();
    let ids = |names: &[&str]| names.iter().map(|name| tokenizer.token_to_id(name).unwrap()).collect::<Vec<_>>();
    assert_eq!(tokenizer.decode(&ids(&["<s>", "▁Hello", "▁wor", "ld"]), true), "Hello world");
    assert_eq!(tokenizer.decode(&ids(&["<s>", "▁Hello"]), false), "<s> Hello");
    assert_eq!(tokenizer.decode(&ids(&["▁", "▁Hello"]), true), " Hello");
    assert_eq!(tokenizer.decode(&ids(&["<0xED>", "<0x95>", "<0x9C>", "a"]), true), "한a");
    assert_eq!(tokenizer.token_text(ids(&["▁wor"])[0]), " wor");
    assert_eq!(tokenizer.token_bytes(ids(&["<0xED>"])[0]), [0xED]);
}

#[test]
fn decoding_agrees_with_the_tokenizers_crate_on_valid_text() {
    let mut random = Random::new(3);
    for tokenizer in decoding_kinds().into_iter().filter(|tokenizer| tokenizer.inner.get_decoder().is_some()) {
        for _ in 0..2000 {
            let ids: Vec<u32> =
                (0..random.below(12)).map(|_| random.below(tokenizer.vocab_size() as usize) as u32).collect();
            for skip in [true, false] {
                let expected = tokenizer.inner.decode(&ids, skip).unwrap();
                // A run of byte tokens with one that is wrong becomes U+FFFD as a whole there; ours keeps what is right.
                if !expected.contains('\u{FFFD}') {
                    assert_eq!(tokenizer.decode(&ids, skip), expected, "{ids:?}");
                }
            }
        }
    }
}

#[test]
fn added_tokens_of_a_config_join_or_are_refused() {
    let entry = json!({"content": "<|new|>", "special": true});
    let add = |id: u32| tiny().with_added_tokens(vec![(id, added_token(&entry).unwrap())], Path::new("config"));
    let tokenizer = add(308).unwrap();
    assert_eq!(texts(&tokenizer, "Hello<|new|>"), ["Hello", "<|new|>"]);
    assert!(tokenizer.is_special(308));
    let error = add(400).unwrap_err().to_string();
    assert_eq!(error, "`config`: added token `<|new|>` cannot have the id 400: `tokenizer.json` disagrees");
}

#[test]
fn truncation_and_padding_of_a_training_run_are_ignored() {
    let tokenizer = tiny_with(|json| {
        json["truncation"] = json!({"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
                                 "pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"});
    });
    assert_eq!(tokenizer.unwrap().encode_ids("Hello world Hello world", true).unwrap().len(), 5);
}

#[test]
fn hostile_texts_take_time_in_proportion_to_their_length() {
    for pre in ["smollm", "llama-bpe", "jais-2", "deepseek-llm", "tekken", "exaone-moe"] {
        let tokenizer = gguf(&GgufWriter::tiny(pre)).unwrap();
        for unit in ["a", " ", "\n", "😀", "1", "!", "a ", "\u{4}"] {
            let text = unit.repeat((1 << 17) / unit.len());
            let start = Instant::now();
            let ids = tokenizer.encode_ids(&text, true).unwrap();
            let decoded = tokenizer.decode(&ids, true);
            assert_eq!(decoded, text, "{pre} {unit:?}");
            assert!(start.elapsed() < Duration::from_secs(20), "{pre} {unit:?}: {:?}", start.elapsed());
        }
    }
}
