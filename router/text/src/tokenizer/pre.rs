//! `tokenizer.ggml.pre`: how a merging model's text is cut into words, and what goes with it.
//!
//! The names are llama.cpp's (`llama-vocab.cpp`, `tokenizer_pre`). A wrong cut gives wrong ids without an error, so an
//! unknown name is refused rather than guessed.

use super::words::expressions::{
    AFMOE_SCRIPTS, BAILING, BEFORE_DIGIT_GROUPS, BEHIND_DIGIT_GROUPS, BLOOM, CHAMELEON_IMAGE, CHAMELEON_MARK,
    CHAMELEON_SENTINEL, CHAMELEON_SPACES, CJK, DEEPSEEK_CJK, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, DEEPSEEK3,
    DEFAULT_MARKS, DIGITS_BY_THREE, EXAONE_MOE, FALCON_MARKS, GPT2, GPT4O, GRANITE_MULTILINGUAL, JAIS2, K2_HORIZON,
    KIMI_K2, LINE_ENDS, LINES, LLAMA3, METASPACE_WORDS, MINICPM5, NO_SPACES, NUMBER, NUMBERS, NUMBERS_BY_THREE, QWEN2,
    QWEN35, SEED_CODER, SPACE_AND_LETTERS, SPACE_AND_MARKS, SPACES_AT_END, SPARK, TEKKEN, TINY_AYA, UFAKZEKA, YOUTU,
    YOUTU_SCRIPTS,
};

/// What llama.cpp takes where a header names none.
pub(super) const DEFAULT: &str = "default";
/// The name that `tokenizer.ggml.model` = `gemma4` stands for.
pub(super) const GEMMA4: &str = "gemma4";

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    /// Names that mean it.
    names: &'static [&'static str],
    /// Applied one after another.
    pub(super) expressions: &'static [&'static str],
    /// What words are made of.
    pub(super) alphabet: Alphabet,
    /// Which words are taken without merging when they are tokens.
    pub(super) whole: Whole,
    /// Whether a text begins with BOS.
    pub(super) bos: Bos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// Bytes, by GPT-2's stand-ins.
    Bytes,
    /// Characters, and bytes (`<0x0A>`) for those without a token.
    Characters,
    /// The same with `▁` for a space, and one put before each line that begins with none if `prefix` says so.
    Metaspace { prefix: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whole {
    None,
    LineEnds,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bos {
    /// Unless the header says otherwise.
    Absent,
    /// Unless the header says otherwise.
    Present,
    /// Whatever the header says: files of this kind are known to say it wrong.
    Forced,
}

const fn cut(names: &'static [&'static str], expressions: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, expressions, alphabet: Alphabet::Bytes, whole: Whole::None, bos: Bos::Absent }
}

const fn whole(pre: PreTokenizer) -> PreTokenizer {
    PreTokenizer { whole: Whole::All, ..pre }
}

const fn begun(pre: PreTokenizer) -> PreTokenizer {
    PreTokenizer { bos: Bos::Present, ..pre }
}

const fn metaspace(names: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { alphabet: Alphabet::Metaspace { prefix: false }, ..cut(names, &[LINES]) }
}

#[rustfmt::skip]
const TABLE: &[PreTokenizer] = &[
    cut(&[DEFAULT], &[DEFAULT_MARKS, GPT2, NUMBERS, DIGITS_BY_THREE]),
    cut(
        &[
            "gpt-2", "phi-2", "mpt", "olmo", "jais", "a.x-4.0", "mellum", "gigachat", "exaone4", "trillion",
            "granite-docling", "modern-bert", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v1-en",
            "jina-v2-code", "roberta-bpe",
        ],
        &[GPT2],
    ),
    cut(
        &[
            "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2",
        ],
        &[NUMBER, GPT2],
    ),
    begun(whole(cut(
        &[
            "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano",
        ],
        &[LLAMA3],
    ))),
    cut(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    whole(cut(&["glm4", "glm5"], &[LLAMA3])),
    cut(&["jais-2"], &[JAIS2]),
    cut(
        &[
            "qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2",
        ],
        &[QWEN2],
    ),
    cut(&["qwen35"], &[QWEN35]),
    cut(&["ufakzeka"], &[UFAKZEKA]),
    cut(&["laguna"], &[LINES, QWEN2]),
    whole(cut(&["minicpm5"], &[NUMBERS_BY_THREE, MINICPM5])),
    cut(&["k2-horizon"], &[K2_HORIZON]),
    cut(&["kimi-k2"], &[KIMI_K2]),
    cut(
        &["deepseek-llm"],
        &[LINE_ENDS, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, SPACES_AT_END, DEEPSEEK_CJK, NUMBERS],
    ),
    cut(&["deepseek-coder"], &[LINE_ENDS, SPACE_AND_LETTERS, SPACE_AND_MARKS, DEEPSEEK_CJK, NUMBER]),
    cut(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], &[NUMBERS_BY_THREE, CJK, DEEPSEEK3]),
    cut(&["spark2_5"], &[NUMBERS_BY_THREE, CJK, SPARK, NUMBER]),
    cut(&["afmoe"], &[BEHIND_DIGIT_GROUPS, AFMOE_SCRIPTS, DEEPSEEK3]),
    whole(cut(&["youtu"], &[YOUTU_SCRIPTS, YOUTU])),
    cut(&["falcon"], &[FALCON_MARKS, GPT2, DIGITS_BY_THREE]),
    cut(&["poro-chat", "bloom", "gpt3-finnish"], &[BLOOM]),
    cut(&["viking"], &[BLOOM, NUMBER]),
    begun(whole(cut(&["tekken"], &[TEKKEN]))),
    begun(cut(
        &["chameleon"],
        &[CHAMELEON_SENTINEL, CHAMELEON_IMAGE, CHAMELEON_SPACES, NUMBER, CHAMELEON_MARK, GPT2],
    )),
    cut(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    whole(cut(&["granite-embed-multi-97m"], &[GRANITE_MULTILINGUAL])),
    cut(&["tiny_aya", "cohere2moe"], &[BEHIND_DIGIT_GROUPS, TINY_AYA]),
    cut(&["superbpe"], &[NUMBERS, BEFORE_DIGIT_GROUPS]),
    cut(&["bailingmoe", "bailingmoe2", "llada-moe"], &[BAILING]),
    cut(&["seed-coder"], &[SEED_CODER]),
    cut(&["exaone-moe"], &[EXAONE_MOE]),
    PreTokenizer { whole: Whole::LineEnds, bos: Bos::Forced, ..metaspace(&[GEMMA4, "granite-embed-multi-311m"]) },
    metaspace(&["sarvam-moe"]),
    PreTokenizer {
        alphabet: Alphabet::Metaspace { prefix: true },
        whole: Whole::LineEnds,
        ..cut(&["mmbert"], &[METASPACE_WORDS])
    },
    PreTokenizer { alphabet: Alphabet::Characters, ..cut(&["whitespace"], &[NO_SPACES]) },
];

/// The line of a name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|pre| pre.names.contains(&name))
}

/// Every name, for messages and tools.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied()
}

/// One name a line.
#[cfg(test)]
pub(super) fn first_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|pre| pre.names[0])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::words::Words;

    #[test]
    fn every_line_of_the_table_can_be_cut_by() {
        for pre in TABLE {
            assert!(Words::parse(pre.expressions.iter().copied()).is_some(), "{:?}", pre.names);
        }
    }

    #[test]
    fn every_name_stands_in_the_reference() {
        let reference = include_str!("../../../../docs/reference/tokenizers.md");
        let line = reference.lines().find(|line| line.starts_with("Names of `tokenizer.ggml.pre`")).unwrap();
        let mut listed: Vec<&str> = line.split('`').skip(3).step_by(2).collect();
        let mut known: Vec<&str> = names().collect();
        listed.sort_unstable();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn no_name_means_two_things() {
        let mut all: Vec<&str> = names().collect();
        let len = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), len);
    }
}
