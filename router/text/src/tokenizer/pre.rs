//! `tokenizer.ggml.pre`: how a byte-level model's text is cut into words, and what goes with it.
//!
//! The names are llama.cpp's (`llama-vocab.cpp`, `tokenizer_pre`). A wrong cut gives wrong ids without an error, so an
//! unknown name is refused rather than guessed.

use super::words::expressions::{
    AFMOE_SCRIPTS, BAILING, BEFORE_DIGIT_GROUPS, BEHIND_DIGIT_GROUPS, BLOOM, CHAMELEON_IMAGE, CHAMELEON_MARK,
    CHAMELEON_SENTINEL, CHAMELEON_SPACES, CJK, DEEPSEEK_CJK, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, DEEPSEEK3,
    DEFAULT_MARKS, DIGITS_BY_THREE, EXAONE_MOE, FALCON_MARKS, GPT2, GPT4O, GRANITE_MULTILINGUAL, JAIS2, K2_HORIZON,
    KIMI_K2, LINE_ENDS, LINES, LLAMA3, MINICPM5, NUMBER, NUMBERS, NUMBERS_BY_THREE, QWEN2, QWEN35, SEED_CODER,
    SPACE_AND_LETTERS, SPACE_AND_MARKS, SPACES_AT_END, SPARK, TEKKEN, TINY_AYA, UFAKZEKA, YOUTU, YOUTU_SCRIPTS,
};

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub(super) struct PreTokenizer {
    /// Names that mean it.
    names: &'static [&'static str],
    /// Applied one after another.
    pub(super) expressions: &'static [&'static str],
    /// A word that is a token is taken whole, without merging.
    pub(super) ignore_merges: bool,
    /// Whether a text begins with BOS unless the header says otherwise.
    pub(super) add_bos: bool,
}

const fn cut(names: &'static [&'static str], expressions: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, expressions, ignore_merges: false, add_bos: false }
}

const fn whole(pre: PreTokenizer) -> PreTokenizer {
    PreTokenizer { ignore_merges: true, ..pre }
}

const fn begun(pre: PreTokenizer) -> PreTokenizer {
    PreTokenizer { add_bos: true, ..pre }
}

#[rustfmt::skip]
const TABLE: &[PreTokenizer] = &[
    cut(&["default"], &[DEFAULT_MARKS, GPT2, NUMBERS, DIGITS_BY_THREE]),
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
    cut(&["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"], &[LLAMA3]),
    whole(cut(&["glm5"], &[LLAMA3])),
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
];

/// The line of a name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    TABLE.iter().find(|pre| pre.names.contains(&name))
}

/// Every name, for messages and tools.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|pre| pre.names).copied()
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
    fn no_name_means_two_things() {
        let mut all: Vec<&str> = names().collect();
        let len = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), len);
    }
}
