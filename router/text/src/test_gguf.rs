//! Writes GGUF headers for tests: a byte-level vocabulary small enough to read, and whatever a test wants wrong in it.

/// The metadata part of a file under construction.
pub(crate) struct GgufWriter {
    num_keys: u64,
    body: Vec<u8>,
}

impl GgufWriter {
    pub(crate) fn new() -> Self {
        Self { num_keys: 0, body: Vec::new() }
    }

    /// A header of the tiny vocabulary with three control tokens, one user-defined token and this pre-tokenizer.
    pub(crate) fn tiny(pre: &str) -> Self {
        let (tokens, merges) = tiny_vocab();
        let types: Vec<i32> = (0..tokens.len()).map(|index| tiny_type(index, tokens.len())).collect();
        let first_marked = tokens.len() as u32 - 4;
        Self::new()
            .string("general.architecture", "llama")
            .u32("llama.block_count", 30)
            .floats("llama.unused", &[1.0, 2.0])
            .string("tokenizer.ggml.model", "gpt2")
            .string("tokenizer.ggml.pre", pre)
            .strings("tokenizer.ggml.tokens", &tokens)
            .i32s("tokenizer.ggml.token_type", &types)
            .strings("tokenizer.ggml.merges", &merges)
            .u32("tokenizer.ggml.bos_token_id", first_marked + 1)
            .u32("tokenizer.ggml.eos_token_id", first_marked + 2)
    }

    pub(crate) fn string(self, key: &str, value: &str) -> Self {
        self.entry(key, 8, |body| put_string(body, value.as_bytes()))
    }

    pub(crate) fn u32(self, key: &str, value: u32) -> Self {
        self.entry(key, 4, |body| body.extend(value.to_le_bytes()))
    }

    pub(crate) fn bool(self, key: &str, value: bool) -> Self {
        self.entry(key, 7, |body| body.push(u8::from(value)))
    }

    pub(crate) fn strings(self, key: &str, values: &[String]) -> Self {
        self.array(key, 8, values.len(), |body| values.iter().for_each(|value| put_string(body, value.as_bytes())))
    }

    pub(crate) fn i32s(self, key: &str, values: &[i32]) -> Self {
        self.array(key, 5, values.len(), |body| values.iter().for_each(|value| body.extend(value.to_le_bytes())))
    }

    pub(crate) fn floats(self, key: &str, values: &[f32]) -> Self {
        self.array(key, 6, values.len(), |body| values.iter().for_each(|value| body.extend(value.to_le_bytes())))
    }

    /// An array that claims `len` elements of type `kind`.
    pub(crate) fn array(self, key: &str, kind: u32, len: usize, put: impl FnOnce(&mut Vec<u8>)) -> Self {
        self.entry(key, 9, |body| {
            body.extend(kind.to_le_bytes());
            body.extend((len as u64).to_le_bytes());
            put(body);
        })
    }

    pub(crate) fn entry(mut self, key: &str, kind: u32, put: impl FnOnce(&mut Vec<u8>)) -> Self {
        put_string(&mut self.body, key.as_bytes());
        self.body.extend(kind.to_le_bytes());
        put(&mut self.body);
        self.num_keys += 1;
        self
    }

    pub(crate) fn bytes(&self, version: u32) -> Vec<u8> {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(self.num_keys.to_le_bytes());
        bytes.extend(&self.body);
        bytes
    }

    pub(crate) fn write(&self) -> tempfile::NamedTempFile {
        write_file(&self.bytes(3))
    }
}

pub(crate) fn write_file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn put_string(body: &mut Vec<u8>, value: &[u8]) {
    body.extend((value.len() as u64).to_le_bytes());
    body.extend(value);
}

/// Tokens and merges of `tests/fixtures/tiny_tokenizer.json`, with a user-defined token at the end.
fn tiny_vocab() -> (Vec<String>, Vec<String>) {
    let json: serde_json::Value = serde_json::from_str(include_str!("../tests/fixtures/tiny_tokenizer.json")).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens: Vec<String> = vocab.keys().cloned().collect();
    tokens.push("<tool call>".to_owned());
    let merges = json["model"]["merges"].as_array().unwrap().iter();
    let merges = merges.map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    (tokens, merges.collect())
}

fn tiny_type(index: usize, len: usize) -> i32 {
    match len - index {
        1 => 4,
        2..=4 => 3,
        _ => 1,
    }
}
