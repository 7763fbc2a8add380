//! The expressions themselves, as llama.cpp applies them (`llama-vocab.cpp`, `unicode.cpp`).
//!
//! llama.cpp knows no cases of letters in most expressions: where an original says `\p{Lu}`, it matches any letter, and
//! so do these. Its white space beyond ASCII is in no range of characters, only in `\s`. `[\p{L}&&[^a-z]]` stands for
//! its `(?=[\p{L}])([^a-z])`.

macro_rules! contractions {
    () => {
        r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
    };
}
macro_rules! spaces {
    () => {
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}
macro_rules! marks_and_spaces {
    () => {
        concat!(r"| ?[^\s\p{L}\p{N}]+[\r\n]*", spaces!())
    };
}
/// Words whose upper-case part comes first, of these letters.
macro_rules! cased_words {
    ($letters:literal, $suffix:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[",
            $letters,
            "&&[^a-z]]*[",
            $letters,
            "&&[^A-Z]]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[",
            $letters,
            "&&[^a-z]]+[",
            $letters,
            "&&[^A-Z]]*",
            $suffix
        )
    };
}
/// The same of an expression that names cases which llama.cpp does not tell apart.
macro_rules! uncased_words {
    () => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]*[\p{L}\p{M}]+",
            contractions!(),
            "?",
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+[\p{L}\p{M}]*",
            contractions!(),
            "?"
        )
    };
}

pub(in crate::tokenizer) const GPT2: &str =
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(in crate::tokenizer) const NUMBER: &str = r"\p{N}";
pub(in crate::tokenizer) const NUMBERS: &str = r"\p{N}+";
pub(in crate::tokenizer) const NUMBERS_BY_THREE: &str = r"\p{N}{1,3}";
pub(in crate::tokenizer) const DIGITS_BY_THREE: &str = "[0-9][0-9][0-9]";
pub(in crate::tokenizer) const BEFORE_DIGIT_GROUPS: &str = r"(?=(\d{3})+(?!\d))";
pub(in crate::tokenizer) const BEHIND_DIGIT_GROUPS: &str = r"\d{1,3}(?=(?:\d{3})*\b)";
pub(in crate::tokenizer) const LINE_ENDS: &str = r"[\r\n]";
pub(in crate::tokenizer) const LINES: &str = r"[^\n]+|[\n]+";
pub(in crate::tokenizer) const METASPACE_WORDS: &str = r"[ \u{2581}]?[^ \u{2581}\n]+|[ \u{2581}]|\n+";
pub(in crate::tokenizer) const NO_SPACES: &str = r"\S+";
pub(in crate::tokenizer) const LLAMA3: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}", marks_and_spaces!());
pub(in crate::tokenizer) const JAIS2: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)",
    r"|\s{1,2}(?!\S)|\s{1}"
);
pub(in crate::tokenizer) const QWEN2: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", marks_and_spaces!());
pub(in crate::tokenizer) const MINICPM5: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+", marks_and_spaces!());
pub(in crate::tokenizer) const UFAKZEKA: &str = concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", marks_and_spaces!());
pub(in crate::tokenizer) const QWEN35: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", spaces!());
pub(in crate::tokenizer) const K2_HORIZON: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}\u200C\u200D]+|\p{N}{1,3}", marks_and_spaces!());
pub(in crate::tokenizer) const BAILING: &str = concat!(
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(in crate::tokenizer) const SEED_CODER: &str =
    concat!(contractions!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+", spaces!());
pub(in crate::tokenizer) const EXAONE_MOE: &str = concat!(
    contractions!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
pub(in crate::tokenizer) const TEKKEN: &str =
    concat!(cased_words!(r"\p{L}", ""), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*", spaces!());
pub(in crate::tokenizer) const GPT4O: &str = concat!(
    cased_words!(r"\p{L}", concat!(contractions!(), "?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    spaces!()
);
pub(in crate::tokenizer) const GRANITE_MULTILINGUAL: &str = concat!(
    cased_words!(r"[\p{L}\p{M}]", concat!(contractions!(), "?")),
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*",
    spaces!()
);
pub(in crate::tokenizer) const TINY_AYA: &str =
    concat!(uncased_words!(), r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*", spaces!());
pub(in crate::tokenizer) const YOUTU_SCRIPTS: &str = concat!(
    r"[\u{AC00}-\u{D7A3}\u{3131}-\u{318E}]+",
    r"|[\u{FF01}\u{2026}\u{201C}\u{201D}\u{2018}\u{2019}\u{2014}\u{FF1A}\u{FF1B}\u{FF0C}\u{3001}-\u{303F}\u{FE30}-\u{FE4F}]+",
    r"|[\u{3105}-\u{312F}]+|[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+"
);
pub(in crate::tokenizer) const YOUTU: &str = concat!(uncased_words!(), r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*", spaces!());
/// llama.cpp has its own list of Han blocks.
pub(in crate::tokenizer) const KIMI_K2: &str = concat!(
    r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B820}-\u{2CEAF}",
    r"\u{2CEB0}-\u{2EBEF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{L}--[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}",
    r"\u{2B740}-\u{2B81F}\u{2B820}-\u{2CEAF}\u{2CEB0}-\u{2EBEF}\u{F900}-\u{FAFF}\u{2F800}-\u{2FA1F}]]+",
    contractions!(),
    r"?|\p{N}{1,3}",
    marks_and_spaces!()
);
pub(in crate::tokenizer) const CJK: &str = r"[\u{4E00}-\u{9FA5}\u{3040}-\u{309F}\u{30A0}-\u{30FF}]+";
pub(in crate::tokenizer) const DEEPSEEK_CJK: &str = r"[[\u{4E00}-\u{9FA5}\u{800}-\u{4E00}\u{AC00}-\u{D7FF}]--\s]+";
pub(in crate::tokenizer) const AFMOE_SCRIPTS: &str = concat!(
    r"[\u{4E00}-\u{9FFF}\u{3400}-\u{4DBF}\u{8C48}-\u{D7FF}\u{E000}-\u{FAFF}\u{3040}-\u{309F}\u{30A0}-\u{30FF}",
    r"\u{FF65}-\u{FF9F}\u{2F00}-\u{2FDF}\u{E40}-\u{E7F}\u{E80}-\u{EFF}\u{1780}-\u{17FF}\u{1000}-\u{109F}",
    r"\u{AA60}-\u{AA7F}\u{A9E0}-\u{A9FF}\u{AC00}-\u{D7AF}\u{1100}-\u{11FF}]+"
);
pub(in crate::tokenizer) const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*",
    spaces!()
);
pub(in crate::tokenizer) const SPARK: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
);
pub(in crate::tokenizer) const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\u{B5}\u{C0}-\u{D6}\u{D8}-\u{F6}\u{F8}-\u{1BA}\u{1BC}-\u{1BF}\u{1C4}-\u{293}\u{295}-\u{2AF}\u{370}-\u{373}",
    r"\u{376}\u{377}\u{37B}-\u{37D}\u{37F}\u{386}\u{388}-\u{38A}\u{38C}\u{38E}-\u{3A1}\u{3A3}-\u{3F5}\u{3F7}-\u{481}",
    r"\u{48A}-\u{52F}\u{531}-\u{556}\u{10A0}-\u{10C5}\u{13A0}-\u{13F5}\u{13F8}-\u{13FD}\u{1C90}-\u{1CBA}\u{1CBD}-\u{1CBF}",
    r"\u{1D00}-\u{1D2B}\u{1D6B}-\u{1D77}\u{1D79}-\u{1D9A}\u{1E00}-\u{1F15}\u{1F18}-\u{1F1D}\u{1F20}-\u{1F45}",
    r"\u{1F48}-\u{1F4D}\u{1F50}-\u{1F57}\u{1F59}\u{1F5B}\u{1F5D}\u{1F5F}-\u{1F7D}\u{1F80}-\u{1FB4}\u{1FB6}-\u{1FBC}\u{1FBE}",
    r"\u{1FC2}-\u{1FC4}\u{1FC6}-\u{1FCC}\u{1FD0}-\u{1FD3}\u{1FD6}-\u{1FDB}\u{1FE0}-\u{1FEC}\u{1FF2}-\u{1FF4}",
    r"\u{1FF6}-\u{1FFC}\u{2102}\u{2107}\u{210A}-\u{2113}\u{2115}\u{2119}-\u{211D}\u{2124}\u{2126}\u{2128}\u{212A}-\u{212D}",
    r"\u{212F}-\u{2134}\u{2139}\u{213C}-\u{213F}\u{2145}-\u{2149}\u{214E}\u{2183}\u{2184}\u{2C00}-\u{2C7B}\u{2C7E}-\u{2CE4}",
    r"\u{2CEB}-\u{2CEE}\u{2CF2}\u{2CF3}\u{A640}-\u{A66D}\u{A680}-\u{A69B}\u{A722}-\u{A76F}\u{A771}-\u{A787}\u{A78B}-\u{A78E}",
    r"\u{AB70}-\u{ABBF}\u{FB00}-\u{FB06}\u{FB13}-\u{FB17}\u{FF21}-\u{FF3A}\u{FF41}-\u{FF5A}\u{10400}-\u{1044F}",
    r"\u{104B0}-\u{104D3}\u{104D8}-\u{104FB}\u{10C80}-\u{10CB2}\u{10CC0}-\u{10CF2}\u{118A0}-\u{118DF}\u{1E900}-\u{1E943}]+"
);
pub(in crate::tokenizer) const DEEPSEEK_MARKS: &str =
    r"\s?[!-/:-~\u{FF01}-\u{FF0F}\u{FF1A}-\u{FF5E}\u{2018}-\u{201F}\u{3001}\u{3002}]+";
pub(in crate::tokenizer) const SPACES_AT_END: &str = r"\s+$";
pub(in crate::tokenizer) const SPACE_AND_LETTERS: &str = r"\s?\p{L}+";
pub(in crate::tokenizer) const SPACE_AND_MARKS: &str = r"\s?\p{P}+";
pub(in crate::tokenizer) const FALCON_MARKS: &str = r"[\p{P}\$\+<=>\^~\|`]+";
pub(in crate::tokenizer) const DEFAULT_MARKS: &str = r"[\p{P}\$\+<=>\^~\|]+";
pub(in crate::tokenizer) const BLOOM: &str = r" ?[^(\s|.,!?\u{2026}\u{3002}\u{FF0C}\u{3001}\u{964}\u{6D4}\u{60C})]+";
pub(in crate::tokenizer) const CHAMELEON_SENTINEL: &str = "<sentinel:[0-9]+>";
pub(in crate::tokenizer) const CHAMELEON_IMAGE: &str = "IMGIMG[A-I]{1,4}Z";
pub(in crate::tokenizer) const CHAMELEON_SPACES: &str = r"[\t\n]|    |  ";
pub(in crate::tokenizer) const CHAMELEON_MARK: &str = r"[\p{P}!-/:-@\[-`{-~]";
