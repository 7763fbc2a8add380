use crate::test_gguf::GgufWriter;
use crate::tokenizer::tests::{gguf, texts};

/// A vocabulary of characters as Gemma 4 has it: marked tokens, bytes, line ends, letters.
fn characters(model: &str, pre: &str) -> GgufWriter {
    let marked = ["<bos>", "<eos>"].map(str::to_owned);
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let tokens = ["▁", "\n", "\n\n", "\n\n\n", "a", "b", "▁a", "ab", "▁ab"].map(str::to_owned);
    let tokens: Vec<String> = marked.into_iter().chain(bytes).chain(tokens).collect();
    let kind = |index| {
        if index < 2 {
            3
        } else if index < 258 {
            6
        } else {
            1
        }
    };
    GgufWriter::new()
        .string("tokenizer.ggml.model", model)
        .string("tokenizer.ggml.pre", pre)
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &(0..tokens.len()).map(kind).collect::<Vec<i32>>())
        .strings("tokenizer.ggml.merges", &["a b", "▁ ab", "\n \n"].map(str::to_owned))
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 1)
}

#[test]
fn characters_are_merged_across_spaces_and_unknown_ones_become_bytes() {
    let tokenizer = gguf(&characters("gpt2", "sarvam-moe")).unwrap();
    assert_eq!(texts(&tokenizer, "a ab\nb"), ["a", " ab", "\n", "b"]);
    assert_eq!(texts(&tokenizer, "\n\n\n"), ["\n\n", "\n"]);
    let encoding = tokenizer.encode("b é<eos>", true).unwrap();
    assert_eq!(encoding.offsets, [0..1, 1..2, 2..4, 2..4, 4..9]);
    assert_eq!(tokenizer.decode(&encoding.ids, true), "b é");
}

#[test]
fn gemma_4_begins_with_bos_whatever_the_header_says_and_takes_line_ends_whole() {
    for (model, pre) in [("gemma4", "of no account"), ("gpt2", "gemma4"), ("gpt2", "granite-embed-multi-311m")] {
        let tokenizer = gguf(&characters(model, pre).bool("tokenizer.ggml.add_bos_token", false)).unwrap();
        assert_eq!(texts(&tokenizer, "ab\n\n\nb"), ["<bos>", "ab", "\n\n\n", "b"], "{model} {pre}");
    }
}

#[test]
fn the_end_of_other_models_is_text_to_gemma_4() {
    let header = |last: &str| {
        let tokens = ["<", "/", "s", ">", "</s>", last].map(str::to_owned);
        GgufWriter::new()
            .string("tokenizer.ggml.model", "gemma4")
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &[1, 1, 1, 1, 4, 3])
    };
    assert_eq!(texts(&gguf(&header("<|tool_response>")).unwrap(), "</s>"), ["<", "/", "s", ">"]);
    assert_eq!(texts(&gguf(&header("<eos>")).unwrap(), "</s>"), ["</s>"]);
}

#[test]
fn a_space_before_each_line_or_none_at_all() {
    let tokenizer = gguf(&characters("gpt2", "mmbert")).unwrap();
    assert_eq!(texts(&tokenizer, "ab ab\nb"), [" ab", " ab", "\n", " ", "b"]);
    let tokenizer = gguf(&characters("gpt2", "whitespace")).unwrap();
    assert_eq!(texts(&tokenizer, "ab\tab"), ["ab", "\t", "ab"]);
}

#[test]
fn a_name_that_two_tokens_have_is_refused() {
    let header = GgufWriter::new().string("tokenizer.ggml.model", "gpt2").string("tokenizer.ggml.pre", "gpt-2");
    let error = gguf(&header.strings("tokenizer.ggml.tokens", &["a", "b", "a"].map(str::to_owned))).unwrap_err();
    assert!(error.to_string().ends_with("`tokenizer.ggml.tokens`: `a` has the ids 0 and 2"), "{error}");
}

/// Padding, end, unknown, then tokens with scores; T5's settings.
fn t5() -> GgufWriter {
    let tokens = ["<pad>", "</s>", "<unk>", "▁", "a", "▁a", "<tool>"].map(str::to_owned);
    GgufWriter::new()
        .string("tokenizer.ggml.model", "t5")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &[3, 3, 2, 1, 1, 1, 4])
        .floats("tokenizer.ggml.scores", &[0.0, 0.0, 0.0, -2.0, -3.0, -4.0, 0.0])
        .bool("tokenizer.ggml.add_space_prefix", true)
        .bool("tokenizer.ggml.remove_extra_whitespaces", true)
}

#[test]
fn unigram_vocabularies_end_a_text_and_drop_its_first_space_again() {
    let tokenizer = gguf(&t5()).unwrap();
    let encoding = tokenizer.encode("a  a<tool>é", true).unwrap();
    assert_eq!((encoding.ids.as_slice(), tokenizer.eos_token()), (&[5, 5, 6, 3, 2, 1][..], Some("</s>")));
    assert_eq!(encoding.offsets, [0..1, 1..4, 4..10, 10..10, 10..12, 12..12]);
    assert_eq!(tokenizer.decode(&encoding.ids[..2], true), "a a");
}

#[test]
fn broken_unigram_headers_name_their_key() {
    let error = |header: GgufWriter| gguf(&header).unwrap_err().to_string();
    let map = t5().array("tokenizer.ggml.precompiled_charsmap", 0, 5, |body| body.extend([255, 0, 0, 0, 0]));
    let expected =
        "key `tokenizer.ggml.precompiled_charsmap`: its table of `255` bytes is longer than the 1 bytes that follow";
    assert!(error(map).ends_with(expected));
    let header = GgufWriter::new().string("tokenizer.ggml.model", "t5");
    let long = header.strings("tokenizer.ggml.tokens", &["a".to_owned(), "b".repeat(2000)]);
    let expected = "`tokenizer.ggml.tokens`: element 1 has `2000` bytes; the limit is 1024";
    assert!(error(long.floats("tokenizer.ggml.scores", &[0.0, 0.0])).ends_with(expected));
    let header = GgufWriter::new().string("tokenizer.ggml.model", "t5");
    let nan = header.strings("tokenizer.ggml.tokens", &["a".to_owned()]).floats("tokenizer.ggml.scores", &[f32::NAN]);
    assert!(error(nan).ends_with("`tokenizer.ggml.scores`: element 0 is no number"));
}

#[test]
fn a_header_without_a_pre_tokenizer_is_cut_by_default_and_warns() {
    let header = |pre: &str| GgufWriter::tiny(pre);
    let cut = |tokenizer: &crate::Tokenizer| tokenizer.encode_ids("Hello, the 1234567", true).unwrap();
    let (default, none) = (gguf(&header("default")).unwrap(), gguf(&header("")).unwrap());
    assert_eq!(cut(&none), cut(&default));
    assert_eq!(default.warning(), None);
    let warning = none.warning().unwrap();
    assert!(
        warning.contains("key `tokenizer.ggml.pre` is missing; text is cut by llama.cpp's `default` rules"),
        "{warning}"
    );
    let tokens =
        GgufWriter::new().string("tokenizer.ggml.model", "gpt2").strings("tokenizer.ggml.tokens", &["a".to_owned()]);
    assert!(gguf(&tokens).unwrap().warning().is_some());
}
