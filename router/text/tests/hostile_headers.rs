//! GGUF headers that are cut or corrupted anywhere: an error or a tokenizer, never a panic, and no memory that the
//! file's size does not explain. A process of its own, since its memory is watched.
#![allow(clippy::unwrap_used)]

#[allow(dead_code, unreachable_pub)]
#[path = "../src/test_gguf.rs"]
mod test_gguf;

use std::fs;

use forebay_text::Tokenizer;
use test_gguf::GgufWriter;

/// Headers of some kilobytes each; nothing that they say may take more than this.
const MAX_GROWTH_KB: u64 = 64 << 10;

/// A header of each kind that is read.
fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let names: Vec<String> = ["<unk>", "<s>", "</s>", "▁", "a", "b", "▁a", "ab"].map(str::to_owned).to_vec();
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = names.into_iter().chain(bytes).collect();
    let kind = |index: usize| match index {
        0 => 2,
        1 | 2 => 3,
        3..8 => 1,
        _ => 6,
    };
    let of = |model: &str| {
        GgufWriter::new()
            .string("tokenizer.ggml.model", model)
            .string("tokenizer.ggml.pre", "gemma4")
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &(0..tokens.len()).map(kind).collect::<Vec<i32>>())
            .floats("tokenizer.ggml.scores", &(0..tokens.len()).map(|rank| -(rank as f32)).collect::<Vec<f32>>())
            .strings("tokenizer.ggml.merges", &["▁ a".to_owned(), "a b".to_owned()])
            .array("tokenizer.ggml.precompiled_charsmap", 0, 16, |body| body.extend([8, 0, 0, 0].repeat(4)))
            .u32("tokenizer.ggml.bos_token_id", 1)
            .u32("tokenizer.ggml.eos_token_id", 2)
    };
    let kinds = ["gpt2", "llama", "t5"];
    let mut headers: Vec<_> = kinds.into_iter().map(|model| (model, of(model).bytes(3))).collect();
    headers.push(("bytes", GgufWriter::tiny("smollm").bytes(3)));
    headers
}

/// Address space at its largest so far, in KB; memory that was asked for counts though it was never touched.
fn peak_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// Whether it is read; a text that it encodes is encoded.
fn try_header(folder: &tempfile::TempDir, bytes: &[u8]) -> bool {
    let path = folder.path().join("header.gguf");
    fs::write(&path, bytes).unwrap();
    let Ok(tokenizer) = Tokenizer::from_gguf(&path) else { return false };
    let ids = tokenizer.encode_ids(" ab é\n\n</s>한", true).unwrap();
    tokenizer.decode(&ids, false);
    true
}

#[test]
fn a_broken_header_is_an_error_or_a_tokenizer_and_takes_no_memory() {
    let folder = tempfile::tempdir().unwrap();
    for (name, whole) in headers() {
        assert!(try_header(&folder, &whole), "{name}");
        let before = peak_kb();
        for len in (0..whole.len()).step_by(41) {
            assert!(!try_header(&folder, &whole[..len]), "{name} cut at {len}");
        }
        for at in (0..whole.len()).step_by(11) {
            // Every bit of the larger numbers is hit in turn: lengths, types, counts.
            let mut broken = whole.clone();
            broken[at] ^= 1 << (at % 8);
            try_header(&folder, &broken);
            let mut broken = whole.clone();
            let end = broken.len().min(at + 8);
            broken[at..end].fill(if at % 2 == 0 { 0xFF } else { 0x7F });
            try_header(&folder, &broken);
        }
        let growth = peak_kb() - before;
        assert!(growth < MAX_GROWTH_KB, "{name}: {growth} KB");
    }
}
